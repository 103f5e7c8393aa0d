"""Two towers and a temperature: composed, described, saved and loaded."""
