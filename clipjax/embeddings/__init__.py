"""Images and texts -> stored embeddings: the only room that runs a model for evaluation."""
