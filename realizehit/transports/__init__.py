"""How clients reach a node: the handshake, the session with its actions, and a transport for each protocol."""
