package realizehit

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Message is one message of a subscription. Payload and pattern are decoded when they are asked for.
type Message struct {
	text     string
	channel  string
	position string
}

// Text returns the payload's JSON text as it was published.
func (m *Message) Text() string { return m.text }

// Decode stores the payload in the value that v points to, as [json.Unmarshal] does.
func (m *Message) Decode(v any) error {
	if err := json.Unmarshal([]byte(m.text), v); err != nil {
		return fmt.Errorf("realizehit: the payload is not JSON of this form: %w", err)
	}
	return nil
}

// Payload returns the payload as encoding/json decodes it.
func (m *Message) Payload() (any, error) {
	var value any
	err := m.Decode(&value)
	return value, err
}

// Pattern returns the pattern that the message was published to, for wildcard subscriptions too. All values are text.
func (m *Message) Pattern() map[string]string {
	filters, _ := decodeChannel(m.channel) // it was checked when it came
	return filters
}

// Position returns the message's position in the history of its pattern; empty if it has none.
func (m *Message) Position() string { return m.position }

// head is what stands before the payload of a message: the subscription's id and its label's fields.
type head struct {
	id      string
	channel string
	offset  string
}

func parseHead(text string) (head, error) {
	id, label, found := strings.Cut(text, "@")
	read := head{id: id}
	if !found {
		return read, nil
	}
	for _, field := range strings.Split(label, "&") {
		key, value, found := strings.Cut(field, "=")
		switch {
		case !found:
			return read, fmt.Errorf("the field %q of a label is not key=value", field)
		case key == "c":
			if _, err := decodeChannel(value); err != nil {
				return read, fmt.Errorf("the field c of a label is not a channel: %w", err)
			}
			read.channel = value
		case key == "o":
			read.offset = value
		}
	}
	return read, nil
}
