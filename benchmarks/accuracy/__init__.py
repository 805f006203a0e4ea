"""The benchmark `posteriors`: accuracy, verdicts and time on posteriors with reference draws."""
