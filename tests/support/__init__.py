"""What the tests of more than one folder use: brokers, servers and clients that do as a test says, and oracles."""
