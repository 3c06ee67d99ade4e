"""Does a model match its reference stage by stage, and compile for other chips?"""
