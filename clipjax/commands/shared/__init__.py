"""What several commands share: options, output, reading result folders."""
