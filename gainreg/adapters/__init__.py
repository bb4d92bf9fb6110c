"""One small file a framework; each consumes tables and hands back what its users expect."""
