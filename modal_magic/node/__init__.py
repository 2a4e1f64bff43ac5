"""What runs beside the ranks: zygote, agent, worker. Nothing here is imported by a kernel."""
