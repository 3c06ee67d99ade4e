"""Does a model match its reference stage by stage?"""
