"""What crosses the borders of processes: sockets and their keys, the thread they live in, and what makes them whole."""
