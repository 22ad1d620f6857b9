"""What `Network.gradient_flow` returns: a Report of one LayerFlow for each recurrent layer."""

from .network.gradient_flow import LayerFlow, Report

__all__ = ["LayerFlow", "Report"]
