"""Figures of single tasks: accuracy, factors, cues, scores, fine-tuning."""
