"""The mechanisms, recipes, words and study fields that config files choose from."""
