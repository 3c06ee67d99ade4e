"""The reference's text towers."""
