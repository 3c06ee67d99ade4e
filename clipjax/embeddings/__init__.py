"""Images and texts -> stored embeddings."""
