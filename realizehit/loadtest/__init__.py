"""The load-test harness behind ``realizehit loadtest``.

| module | holds |
|---|---|
| `plan` | what to do: scenarios, connections, rates |
| `expect` | expressions such as ``p99<50ms`` |
| `histogram` | latencies merged, percentiles |
| `target` | which server, found or started |
| `local` | what a server on this machine costs, from ``/proc`` |
| `worker` | one client process: drives `realizehit.loadtest._load.Fleet` |
| `process` | the program that a client process is |
| `conductor` | starts the workers, leads them through the phases, collects |
| `report` | the figures, and their JSON |
| `live`, `page` | for people: the terminal, one HTML page |
"""
