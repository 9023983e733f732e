// The driver of the Go client for the conformance kit: the protocol of clients/conformance/README.md, and nothing more.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	realizehit "github.com/realizehit/realizehit-go"
)

type object = map[string]any

type command struct {
	Do, Client, Sub, API, URL string
	N                         int
	Options                   struct {
		Token, Key         string
		Tokens             []*string
		BackoffBase        float64 `json:"backoff_base"`
		BackoffCap         float64 `json:"backoff_cap"`
		Heartbeat, Timeout float64
		OpenTimeout        float64 `json:"open_timeout"`
		ResponseTimeout    float64 `json:"response_timeout"`
		Queue              int
		MaxMessage         int64 `json:"max_message"`
	}
	publication
	Read, Since string
	Decode      bool
	Offsets     bool
	Last, Count int
	Every       int
	Timeout     float64
	Messages    []publication
}

type publication struct {
	Pattern json.RawMessage
	Payload json.RawMessage
	Text    *string
	Key     string
}

var names = map[error]string{
	realizehit.ErrBadPattern: "BadPattern", realizehit.ErrForbidden: "Forbidden",
	realizehit.ErrNotAuthenticated: "NotAuthenticated", realizehit.ErrRateLimited: "RateLimited",
	realizehit.ErrTooLarge: "TooLarge", realizehit.ErrUnavailable: "Unavailable",
	realizehit.ErrPublishUnclear: "PublishUnclear", realizehit.ErrRejected: "Rejected",
	realizehit.ErrDisconnected: "Disconnected", realizehit.ErrTimeout: "Timeout",
	realizehit.ErrToken: "Token", realizehit.ErrClosed: "Closed",
}

var output sync.Mutex

func write(on string, fields object) {
	fields["on"] = on
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	output.Lock()
	defer output.Unlock()
	_, _ = os.Stdout.Write(append(line, '\n'))
}

func errorOf(err error) object {
	var known *realizehit.Error
	if !errors.As(err, &known) {
		return object{"name": fmt.Sprintf("%T", err), "code": "", "text": err.Error()}
	}
	fields := object{"name": names[known.Kind], "code": known.Code, "text": known.Error()}
	if known.Status != 0 {
		fields["status"] = known.Status
	}
	return fields
}

type driver struct {
	mu      sync.Mutex
	clients map[string]*realizehit.Client
	subs    map[string]*realizehit.Subscription
	apis    map[string]*realizehit.API
}

func main() {
	write("hello", object{"protocol": 1, "language": "go", "version": realizehit.Version})
	d := &driver{}
	d.forget()
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var read command
		if err := json.Unmarshal(lines.Bytes(), &read); err != nil {
			fmt.Fprintln(os.Stderr, "a command is not understood:", err)
			os.Exit(1)
		}
		go d.run(&read)
	}
	d.reset()
}

func (d *driver) run(c *command) {
	fields, err := d.do(c)
	if err != nil {
		write("failed", object{"n": c.N, "error": errorOf(err)})
		return
	}
	if fields == nil {
		fields = object{}
	}
	fields["n"] = c.N
	write("done", fields)
}

func (d *driver) do(c *command) (object, error) {
	d.mu.Lock()
	client, sub, api := d.clients[c.Client], d.subs[c.Sub], d.apis[c.API]
	d.mu.Unlock()
	switch c.Do {
	case "open":
		return nil, d.open(c)
	case "subscribe":
		return d.subscribe(c, client)
	case "next":
		return next(c, sub)
	case "unsubscribe":
		return nil, sub.Unsubscribe(context.Background())
	case "stats":
		return object{"state": sub.State(), "dropped": sub.Dropped()}, nil
	case "close":
		client.Close()
		return nil, nil
	case "api":
		made, err := realizehit.NewAPI(c.URL, realizehit.APIOptions{
			Key: c.Options.Key, Timeout: seconds(c.Options.Timeout), BackoffBase: seconds(c.Options.BackoffBase),
		})
		d.mu.Lock()
		defer d.mu.Unlock()
		d.apis[c.API] = made
		return nil, err
	case "publish":
		pattern, err := patternOf(c.publication)
		if err != nil {
			return nil, err
		}
		result, err := api.PublishWithKey(context.Background(), pattern, payloadOf(c.publication), c.Key)
		return fieldsOf(result), err
	case "publish_many":
		return publishMany(c, api)
	case "history":
		return history(c, api)
	case "pattern":
		return describe(c)
	case "reset":
		d.reset()
		return nil, nil
	}
	return nil, &realizehit.Error{Kind: realizehit.ErrRejected, Code: "unsupported", Text: "there is no command " + c.Do}
}

func (d *driver) open(c *command) error {
	name, left := c.Client, c.Options.Tokens
	options := realizehit.Options{
		OpenTimeout: seconds(c.Options.OpenTimeout), ResponseTimeout: seconds(c.Options.ResponseTimeout),
		Heartbeat: seconds(c.Options.Heartbeat), BackoffBase: seconds(c.Options.BackoffBase),
		BackoffCap: seconds(c.Options.BackoffCap), Queue: c.Options.Queue, MaxMessage: c.Options.MaxMessage,
		OnConnected: func() { write("connected", object{"client": name}) },
		OnDisconnected: func(lost *realizehit.Error) {
			fields := object{"client": name}
			if lost.Status != 0 {
				fields["code"] = lost.Status
			}
			write("disconnected", fields)
		},
		OnExpiring: func(left time.Duration) { write("expiring", object{"client": name, "seconds": left.Seconds()}) },
		OnNote:     func(note json.RawMessage) { write("note", object{"client": name, "note": note}) },
		OnError:    func(err error) { write("error", object{"client": name, "error": errorOf(err)}) },
	}
	if c.Options.Token != "" {
		options.Token = realizehit.StaticToken(c.Options.Token)
	}
	if len(left) > 0 {
		options.Token = func(context.Context) (string, error) {
			write("token_asked", object{"client": name})
			token := left[0]
			if len(left) > 1 {
				left = left[1:]
			}
			if token == nil {
				return "", errors.New("the case gives no token")
			}
			return *token, nil
		}
	}
	client, err := realizehit.Connect(context.Background(), c.URL, options)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.clients[name] = client
	d.mu.Unlock()
	go func() {
		<-client.Done()
		if err := client.Err(); err != nil {
			write("ended", object{"client": name, "error": errorOf(err)})
		}
	}()
	return nil
}

func (d *driver) subscribe(c *command, client *realizehit.Client) (object, error) {
	pattern, err := patternOf(c.publication)
	if err != nil {
		return nil, err
	}
	name := c.Sub
	options := realizehit.SubscribeOptions{
		Since: c.Since, Last: c.Last, Offsets: c.Offsets, Every: time.Duration(c.Every) * time.Millisecond,
		OnState: func(state realizehit.State) { write("state", object{"sub": name, "state": state}) },
		OnGap: func(gap realizehit.Gap) {
			fields := object{"sub": name}
			if gap.Dropped > 0 {
				fields["dropped"] = gap.Dropped
			} else {
				fields["seconds"] = gap.Seconds
			}
			write("gap", fields)
		},
		OnRecovered: func() { write("recovered", object{"sub": name}) },
		OnError:     func(err error) { write("error", object{"sub": name, "error": errorOf(err)}) },
	}
	if c.Read != "iterate" {
		options.OnMessage = func(message *realizehit.Message) {
			tell(name, message, c.Decode)
			if c.Read == "raise" {
				panic("a callback that fails, as the case says")
			}
		}
	}
	sub, err := client.Subscribe(context.Background(), pattern, options)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.subs[name] = sub
	d.mu.Unlock()
	return object{"id": sub.ID()}, nil
}

func tell(sub string, message *realizehit.Message, decode bool) {
	fields := object{"sub": sub, "text": message.Text(), "pattern": message.Pattern()}
	if message.Position() != "" {
		fields["position"] = message.Position()
	}
	if decode {
		value, err := message.Payload()
		if err != nil {
			write("error", object{"sub": sub, "error": errorOf(err)})
			return
		}
		fields["value"] = value
	}
	write("payload", fields)
}

func next(c *command, sub *realizehit.Subscription) (object, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = 5
	}
	for count := 0; ; count++ {
		if count == max(c.Count, 1) {
			return object{"count": count, "ended": false}, nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), seconds(timeout))
		message, err := sub.Next(ctx)
		cancel()
		switch {
		case errors.Is(err, realizehit.ErrClosed):
			return object{"count": count, "ended": true}, nil
		case errors.Is(err, context.DeadlineExceeded):
			return object{"count": count, "ended": false}, nil
		case err != nil:
			return nil, err
		}
		tell(c.Sub, message, c.Decode)
	}
}

func publishMany(c *command, api *realizehit.API) (object, error) {
	messages := make([]realizehit.Publication, len(c.Messages))
	for place, each := range c.Messages {
		var pattern realizehit.Pattern
		if err := json.Unmarshal(each.Pattern, &pattern); err != nil {
			return nil, err
		}
		messages[place] = realizehit.Publication{Pattern: pattern, Payload: payloadOf(each), Key: each.Key}
	}
	outcomes := []object{}
	for _, outcome := range api.PublishMany(context.Background(), messages) {
		if outcome.Err != nil {
			outcomes = append(outcomes, object{"error": errorOf(outcome.Err)})
			continue
		}
		outcomes = append(outcomes, fieldsOf(outcome.Result))
	}
	return object{"outcomes": outcomes}, nil
}

func history(c *command, api *realizehit.API) (object, error) {
	pattern, err := patternOf(c.publication)
	if err != nil {
		return nil, err
	}
	var found realizehit.History
	if c.Since != "" {
		found, err = api.Since(context.Background(), pattern, c.Since)
	} else {
		found, err = api.Last(context.Background(), pattern, c.Last)
	}
	messages := []object{}
	for _, each := range found.Messages {
		message := object{"text": string(each.Payload), "position": each.At}
		if each.Pattern != nil {
			message["pattern"] = each.Pattern
		}
		messages = append(messages, message)
	}
	fields := object{"messages": messages, "at": found.At, "first": found.First, "more": found.More}
	if c.Since != "" {
		fields["recovered"] = found.Recovered
	}
	return fields, err
}

func describe(c *command) (object, error) {
	pattern, err := realizehit.ParsePattern(c.Pattern)
	if err != nil {
		return nil, err
	}
	text, err := pattern.Text()
	if err != nil {
		return nil, err
	}
	id, err := pattern.ID()
	return object{"text": text, "id": id}, err
}

// patternOf reads a pattern that the client itself is to judge.
func patternOf(p publication) (realizehit.Pattern, error) {
	var pattern realizehit.Pattern
	err := json.Unmarshal(p.Pattern, &pattern)
	return pattern, err
}

func payloadOf(p publication) any {
	if p.Text != nil {
		return json.RawMessage(*p.Text)
	}
	var value any
	_ = json.Unmarshal(p.Payload, &value)
	return value
}

func fieldsOf(result realizehit.Result) object {
	fields := object{"id": result.ID, "nodes": result.Nodes}
	if result.At != "" {
		fields["at"] = result.At
	}
	if result.Duplicate {
		fields["duplicate"] = true
	}
	return fields
}

func seconds(number float64) time.Duration { return time.Duration(number * float64(time.Second)) }

func (d *driver) forget() {
	d.clients, d.subs = map[string]*realizehit.Client{}, map[string]*realizehit.Subscription{}
	d.apis = map[string]*realizehit.API{}
}

func (d *driver) reset() {
	d.mu.Lock()
	clients, apis := d.clients, d.apis
	d.forget()
	d.mu.Unlock()
	for _, client := range clients {
		client.Close()
	}
	for _, api := range apis {
		if api != nil {
			api.Close()
		}
	}
}
