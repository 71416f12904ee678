"""SGD at finite D."""
