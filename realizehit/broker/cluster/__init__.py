"""Redis and Valkey Cluster: slots, the topology, sharded publishing and subscribing."""
