"""`factstream chat`: its command, and the screens on which it is shown."""
