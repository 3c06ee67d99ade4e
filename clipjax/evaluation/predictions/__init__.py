"""The numbers of a task from what any framework says of each image."""
