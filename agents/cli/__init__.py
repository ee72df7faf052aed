"""The command `zerosearch`: a file a sub-command, and what they share."""
