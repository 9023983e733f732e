"""Engine.IO, revisions 3 and 4: its packets, long-polling, and its WebSocket."""
