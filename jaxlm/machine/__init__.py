"""What a program runs on: chips and their datasheets, host memory, the processes of many machines, what is measured."""
