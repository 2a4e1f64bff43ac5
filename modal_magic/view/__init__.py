"""What people see of a session: pure models first, then their texts."""
