"""Is it the same model, stage by stage; does it compile for other chips; what is proved of each
architecture.
"""
