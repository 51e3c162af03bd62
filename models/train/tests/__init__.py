"""Promises of the training code that a number could silently break."""
