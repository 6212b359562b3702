"""The sub-reports: each draws what it needs, measures it, and writes its section of the report."""
