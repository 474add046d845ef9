"""What a stage needs and costs on a slice of TPUs, found out by compiling its step for it."""
