"""The load-test harness behind ``realizehit loadtest``.

| module | holds |
|---|---|
| `plan` | what to do: scenarios, connections, rates |
| `expect` | expressions such as ``p99<50ms`` |
| `histogram` | latencies merged, percentiles |
| `target`, `addresses`, `broker` | which server is measured, and where it is |
| `source_addresses` | the addresses that it connects from, so many that free ports are found quickly |
| `started_server`, `server_main` | a server that the load test starts: the parent's side, and the program |
| `open_files` | the limit of open files |
| `proc_usage` | the processor time and memory of a server on this machine, from ``/proc`` |
| `worker`, `client_main` | one client process, which drives `realizehit.loadtest._load.Fleet`, and its program |
| `client_processes` | starts the client processes, and exchanges messages with them |
| `coordinator` | leads the client processes through the phases, and collects what they report |
| `figures`, `doubts` | the figures, and reasons to doubt them |
| `report` | the whole result, and its JSON |
| `terminal`, `html_report` | for people: the terminal, one HTML page |
"""
