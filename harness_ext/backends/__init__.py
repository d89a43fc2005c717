"""The models behind the seats, one module per kind."""
