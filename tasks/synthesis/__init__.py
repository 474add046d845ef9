"""Self-instruct: questions, tests and solutions that models write, and dialogues of those that running them accepts."""
