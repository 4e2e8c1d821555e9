"""The ways in: command line, web page, batch jobs and pictures."""
