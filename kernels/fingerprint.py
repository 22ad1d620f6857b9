"""What says whether an array was written: a number made of all its words of 32 bits and their
order.
"""

ODD = 0x9E3779B1


def mixed(word, place):
    """A word, and which it is of the array -> a word: MurmurHash3's last lines, a bijection of the
    word.  Arrays of uint32.
    """
    word = word ^ place * ODD
    word = (word ^ word >> 16) * 0x85EBCA6B
    word = (word ^ word >> 13) * 0xC2B2AE35
    return word ^ word >> 16
