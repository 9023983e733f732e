// Package realizehit publishes to a realizehit server and subscribes to it.
//
// [API] publishes over HTTP; [Client] subscribes over a WebSocket and stays subscribed: it connects again by itself when
// the connection is lost, and tells what may have been missed.
//
// A message is published to a [Pattern], a set of filters such as {"kind": "news"}, and reaches the subscriptions to the
// same pattern, and those whose wildcards match it.
package realizehit

// Version is the version of this package.
const Version = "0.1.0"
