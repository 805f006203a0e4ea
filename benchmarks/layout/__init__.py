"""The benchmark `layout`: how a mixture's density is written."""
