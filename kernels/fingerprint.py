"""The formula of a fingerprint: the sum of `mixed` over an array's words says whether anything in it was written."""


def same(x):
    return x


def mixed(word, place, narrow=same):
    """A word of 32 bits, and which it is of the array -> a word; a bijection of the word (MurmurHash3's last lines).

    Arrays of uint32, or numbers in a compiled loop; narrow takes back to 32 bits what a product has made wider.
    """
    word = narrow(word ^ narrow(place * narrow(0x9E3779B1)))
    word = narrow(narrow(word ^ word >> narrow(16)) * narrow(0x85EBCA6B))
    word = narrow(narrow(word ^ word >> narrow(13)) * narrow(0xC2B2AE35))
    return narrow(word ^ word >> narrow(16))
