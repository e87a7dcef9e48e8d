"""Conversations: how many questions about them are answered, from their own facts or from their turns."""
