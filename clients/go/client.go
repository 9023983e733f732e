package realizehit

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const stableAfter = 10 * time.Second // a connection that is lost sooner does not reset the back-off

// Options are the settings of a [Client]. The zero value means the defaults.
//
// The functions are called in the order of what happened, and never two at a time.
type Options struct {
	// Token returns who the client is, a JSON Web Token. It is called for each connection, and before a token ends.
	// [StaticToken] makes one of a text.
	Token func(context.Context) (string, error)
	// Header is sent with the opening handshake.
	Header http.Header
	// HTTPClient makes the handshake; by default one that heeds the proxies of the environment.
	HTTPClient *http.Client
	// OpenTimeout is for connecting and the handshake. The default is 10 s.
	OpenTimeout time.Duration
	// ResponseTimeout is for the reply to an action. The default is 10 s.
	ResponseTimeout time.Duration
	// Heartbeat is how long nothing may come before the connection is given up. The default is 60 s.
	Heartbeat time.Duration
	// BackoffBase and BackoffCap are the first and the last bound of the delay before connecting again: 250 ms and 20 s.
	BackoffBase, BackoffCap time.Duration
	// Queue is how many messages may wait in each subscription. The default is 1,024.
	Queue int
	// MaxMessage is the size in bytes of the largest message that is accepted. The default is 16 MiB.
	MaxMessage int64

	OnConnected    func()
	OnDisconnected func(*Error)          // Status is the close code, 0 if there was none
	OnExpiring     func(time.Duration)   // the token ends then
	OnNote         func(json.RawMessage) // an operator sent this, any JSON value
	OnError        func(error)           // connecting again or renewing the token failed; it is tried again
}

// fixedToken is the key by which StaticToken tells Connect that its token cannot be renewed.
type fixedToken struct{}

// StaticToken returns a token function for one fixed token, which cannot be renewed.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		if asked, ok := ctx.Value(fixedToken{}).(*bool); ok {
			*asked = true
		}
		return token, nil
	}
}

// Client subscribes over a WebSocket and stays subscribed. It is safe for concurrent use.
type Client struct {
	address string
	options Options
	events  *events
	done    chan struct{}
	stop    context.Context
	cancel  context.CancelFunc
	work    sync.WaitGroup

	mu         sync.Mutex
	connection *connection // nil while there is none
	closing    bool
	err        error
	fixed      bool // the token cannot be renewed
	renewing   bool
	number     int
	pending    map[string]func(*incoming)
	topics     map[string]*topic // by canonical text
	byID       map[string]*topic
	retry      backoff
}

// topic is a pattern that is subscribed to, once on the wire for all its subscriptions.
type topic struct {
	text     string
	wildcard bool
	pattern  json.RawMessage
	id       string // empty while it is not in force
	request  string // the id of its last sub
	members  []*Subscription
	ready    chan struct{} // closed when it is in force or refused
	err      error
	wasReady bool
	told     bool // that a label is malformed
	offsets  bool
	every    int64 // milliseconds in which the server sends at most one message; 0 for every message
	last     int
	epoch    string
	position string
}

// positionOf returns the position of a message by the offset of its label, and notes the epoch if the offset tells one. It
// is empty if nobody asked for positions, or the epoch is not known.
func (t *topic) positionOf(offset string) string {
	switch {
	case offset == "" || !t.offsets:
		return ""
	case strings.Contains(offset, "."):
		t.epoch = epochOf(offset)
		return offset
	case t.epoch == "":
		return ""
	}
	return t.epoch + "." + offset
}

func epochOf(position string) string {
	epoch, _, _ := strings.Cut(position, ".")
	return epoch
}

// Connect connects to a server. The address is that of its WebSocket, ws://127.0.0.1:8080/ws.
//
// A first attempt that fails is not repeated, so that a wrong address shows. From then on the client connects again by
// itself; it ends only when the server refuses it with a close code from 4500 to 4999 or with 401 or 403.
func Connect(ctx context.Context, address string, options Options) (*Client, error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || parsed.Scheme != "ws" && parsed.Scheme != "wss" {
		return nil, errors.New("realizehit: the address of the WebSocket is not of the form ws://host:port/ws")
	}
	options.setDefaults()
	c := &Client{
		address: address, options: options, events: newEvents(), done: make(chan struct{}),
		pending: map[string]func(*incoming){}, topics: map[string]*topic{}, byID: map[string]*topic{},
		retry: backoff{base: options.BackoffBase, most: options.BackoffCap},
	}
	c.stop, c.cancel = context.WithCancel(context.Background())
	connection, err := options.dial(context.WithValue(ctx, fixedToken{}, &c.fixed), address)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.connection = connection
	c.work.Add(2)
	go func() { defer c.work.Done(); c.events.run() }()
	go func() { defer c.work.Done(); c.run(connection) }()
	return c, nil
}

func (o *Options) setDefaults() {
	set := func(value *time.Duration, standard time.Duration) {
		if *value <= 0 {
			*value = standard
		}
	}
	set(&o.OpenTimeout, 10*time.Second)
	set(&o.ResponseTimeout, 10*time.Second)
	set(&o.Heartbeat, 60*time.Second)
	set(&o.BackoffBase, 250*time.Millisecond)
	set(&o.BackoffCap, 20*time.Second)
	if o.Queue <= 0 {
		o.Queue = 1024
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = 16 << 20
	}
}

// Connected says whether a connection is there.
func (c *Client) Connected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connection != nil
}

// Done is closed when the client has ended: by Close, or because the server refused it, which Err tells.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns the error for which the client has ended; nil while it has not, and after Close.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends all subscriptions and the connection, and waits until no function of the program runs any more. It must not
// be called from one of them.
func (c *Client) Close() {
	c.mu.Lock()
	c.closing = true
	connection := c.connection
	c.mu.Unlock()
	if connection != nil {
		connection.close()
	}
	c.cancel()
	c.work.Wait()
}

// Subscribe subscribes to a pattern and waits until that is in force: nothing that is published from then on is missed.
//
// Several subscriptions to one pattern each get every message; on the wire there is one. The error is an [*Error]; if
// there is no answer within the response time-out, or no connection, it is [ErrTimeout].
func (c *Client) Subscribe(ctx context.Context, pattern Pattern, options SubscribeOptions) (*Subscription, error) {
	text, err := pattern.Text()
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(pattern)
	if err != nil {
		return nil, badPattern("it cannot be written as JSON: %v", err)
	}
	sub := newSubscription(c, pattern, options)
	c.mu.Lock()
	if err := c.ended(); err != nil {
		c.mu.Unlock()
		return nil, err
	}
	t := c.topics[text]
	if t != nil && (options.Since != "" || options.Last > 0) {
		c.mu.Unlock()
		return nil, failure(ErrRejected, "bad-request", nil, "this client has a subscription to %s; since and last need the first one", text)
	}
	every := int64((options.Every + time.Millisecond - 1) / time.Millisecond)
	if t != nil && t.every != every {
		c.mu.Unlock()
		return nil, failure(ErrRejected, "bad-request", nil, "this client has a subscription to %s with another Every", text)
	}
	if t == nil {
		t = &topic{
			text: text, wildcard: pattern.isWildcard(), pattern: encoded, ready: make(chan struct{}),
			offsets: options.Offsets || options.Since != "" || options.Last > 0, last: options.Last, position: options.Since,
			every: every,
		}
		t.epoch = epochOf(options.Since)
		c.topics[text] = t
		c.ask(t)
	}
	sub.topic = t
	t.members = append(t.members, sub)
	if t.id != "" {
		sub.move(Subscribed)
	}
	if options.OnMessage != nil {
		c.work.Add(1)
		go func() { defer c.work.Done(); sub.callBack() }()
	}
	c.mu.Unlock()
	if err := c.await(ctx, t); err != nil {
		c.mu.Lock()
		c.leave(sub, nil)
		sub.finish(nil)
		c.mu.Unlock()
		return nil, err
	}
	return sub, nil
}

func (c *Client) await(ctx context.Context, t *topic) error {
	timer := time.NewTimer(c.options.ResponseTimeout)
	defer timer.Stop()
	for {
		c.mu.Lock()
		ready := t.ready
		c.mu.Unlock()
		select {
		case <-ready:
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return failure(ErrTimeout, "", nil, "no answer to sub within %s", c.options.ResponseTimeout)
		}
		c.mu.Lock()
		id, err := t.id, t.err
		c.mu.Unlock()
		if id != "" || err != nil {
			return err
		}
	}
}

// ended returns why nothing can be done with the client any more. It is called with mu held.
func (c *Client) ended() error {
	if c.err != nil {
		return c.err
	}
	if c.closing {
		return failure(ErrClosed, "", nil, "the client is closed")
	}
	return nil
}

func (c *Client) unsubscribe(ctx context.Context, sub *Subscription) error {
	c.mu.Lock()
	if sub.state == Unsubscribing || sub.state == Unsubscribed {
		c.mu.Unlock()
		return nil
	}
	sub.move(Unsubscribing)
	sub.end(nil)
	confirmed := make(chan struct{})
	if !c.leave(sub, func(*incoming) { close(confirmed) }) {
		close(confirmed)
	}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		sub.finish(nil)
	}()
	timer := time.NewTimer(c.options.ResponseTimeout)
	defer timer.Stop()
	select {
	case <-confirmed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return failure(ErrTimeout, "", nil, "no answer to unsub within %s", c.options.ResponseTimeout)
	}
}

// The functions below are called with mu held.

// leave takes a subscription away, and says whether confirmed will be called with the server's answer.
func (c *Client) leave(sub *Subscription, confirmed func(*incoming)) bool {
	t := sub.topic
	for place, member := range t.members {
		if member == sub {
			t.members = append(t.members[:place:place], t.members[place+1:]...)
			break
		}
	}
	if len(t.members) > 0 || c.topics[t.text] != t {
		return false
	}
	c.forget(t)
	delete(c.pending, t.request)
	if c.connection == nil {
		return false
	}
	c.act(map[string]any{"act": "unsub", "pat": t.pattern}, confirmed)
	return confirmed != nil
}

func (c *Client) forget(t *topic) {
	if c.topics[t.text] == t {
		delete(c.topics, t.text)
	}
	if c.byID[t.id] == t {
		delete(c.byID, t.id)
	}
}

// act sends an action; answered is called with the reply, or with nil if the connection is lost.
func (c *Client) act(action map[string]any, answered func(*incoming)) string {
	c.number++
	id := strconv.Itoa(c.number)
	action["id"] = id
	if answered != nil {
		c.pending[id] = answered
	}
	text, _ := json.Marshal(action) // of texts and numbers
	c.connection.send(string(text))
	return id
}

// ask sends the sub of a topic, if there is a connection; otherwise the next one begins with it.
func (c *Client) ask(t *topic) {
	if c.connection == nil || c.topics[t.text] != t {
		return
	}
	action := map[string]any{"act": "sub", "pat": t.pattern}
	switch {
	case t.position != "":
		action["since"] = t.position
	case t.last > 0 && !t.wasReady:
		action["last"] = t.last
	case t.offsets:
		action["offsets"] = true
	}
	if t.every > 0 {
		action["every"] = t.every
	}
	resumes := t.position != ""
	t.request = c.act(action, func(reply *incoming) { c.subscribed(t, reply, resumes) })
}

// subscribed takes the answer to a sub; resumes says whether it asked for what came after a position.
func (c *Client) subscribed(t *topic, reply *incoming, resumes bool) {
	if reply == nil || c.topics[t.text] != t {
		return // it is asked for on the next connection, or nobody wants it any more
	}
	code, _ := textOf(reply.Code)
	if reply.failed() {
		if t.wasReady && (code == "unavailable" || code == "rate-limited") {
			connection := c.connection
			time.AfterFunc(c.retry.next(), func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.connection == connection {
					c.ask(t)
				}
			})
			return
		}
		c.endTopic(t, reply.refusal())
		return
	}
	id, found := textOf(reply.Ret)
	if !found || id == "" {
		id = labelOf(t.text)
	}
	if other := c.byID[id]; other != nil && other != t {
		c.endTopic(t, refusal("id-collision", 0, "the pattern "+t.text+" has the id of "+other.text+"; use another client for it"))
		return
	}
	c.retry.reset()
	recovered := resumes && string(reply.Found) == "true"
	if at, found := textOf(reply.At); found && t.offsets {
		t.epoch = epochOf(at)
		if !recovered {
			t.position = at
		}
	}
	t.id, t.wasReady = id, true
	c.byID[id] = t
	for _, member := range t.members {
		if resumes && !recovered && member.away.IsZero() { // the program's own `since` cannot be served
			member.gap(0)
		}
		member.inForce(recovered)
	}
	close(t.ready)
}

// endTopic ends all subscriptions of a topic with an error; nil if the client was closed.
func (c *Client) endTopic(t *topic, err error) {
	c.forget(t)
	t.err = err
	if t.err == nil {
		t.err = failure(ErrClosed, "", nil, "the client is closed")
	}
	if t.id == "" {
		close(t.ready)
	}
	members := t.members
	t.members = nil
	for _, member := range members {
		if !t.wasReady { // Subscribe returns the error
			member.end(err)
			member.move(Unsubscribed)
			continue
		}
		member.finish(err)
	}
}

func (i *incoming) failed() bool { return len(i.Err) > 0 && string(i.Err) != "null" }

func (i *incoming) refusal() *Error {
	code, _ := textOf(i.Code)
	text, found := textOf(i.Err)
	if !found {
		text = string(i.Err)
	}
	return refusal(code, 0, text)
}

// The functions below run on the goroutine that serves the connections.

func (c *Client) run(connection *connection) {
	delays := backoff{base: c.options.BackoffBase, most: c.options.BackoffCap}
	for {
		began := time.Now()
		c.attach(connection)
		var lost *Error
		errors.As(connection.serve(c.take), &lost)
		if time.Since(began) >= stableAfter {
			delays.reset()
		}
		closing := c.detach(connection.lastHeard(), lost)
		if closing {
			c.finish(nil)
			return
		}
		if final := lost.Status >= 4500 && lost.Status < 5000; final && (lost.Status != 4501 || c.options.Token == nil || c.fixed) {
			c.finish(lost)
			return
		}
		delay := lost.RetryAfter
		if delay < 0 {
			delay = delays.next()
		}
		next, err := c.comeBack(delay, &delays)
		if next == nil {
			c.finish(err)
			return
		}
		connection = next
	}
}

// comeBack connects again. It returns neither connection nor error if the client was closed.
func (c *Client) comeBack(delay time.Duration, delays *backoff) (*connection, error) {
	for {
		timer := time.NewTimer(delay)
		select {
		case <-c.stop.Done():
			timer.Stop()
			return nil, nil
		case <-timer.C:
		}
		connection, err := c.options.dial(c.stop, c.address)
		if err == nil {
			return connection, nil
		}
		if c.stop.Err() != nil {
			return nil, nil
		}
		var known *Error
		if errors.As(err, &known) && (known.Status == http.StatusUnauthorized || known.Status == http.StatusForbidden) {
			return nil, err
		}
		c.tell(err)
		delay = delays.next()
	}
}

func (c *Client) attach(connection *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		go connection.close()
	}
	c.tellConnected()
	if c.connection == connection { // the first one: what was subscribed to meanwhile has been asked for
		return
	}
	c.connection = connection
	for _, t := range c.topics {
		c.ask(t)
	}
}

func (c *Client) tellConnected() {
	if c.options.OnConnected != nil {
		c.events.add(c.options.OnConnected)
	}
}

func (c *Client) tell(err error) {
	if c.options.OnError != nil {
		c.events.add(func() { c.options.OnError(err) })
	}
}

func (c *Client) detach(since time.Time, lost *Error) (closing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.connection = nil
	c.byID = map[string]*topic{}
	pending := c.pending
	c.pending = map[string]func(*incoming){}
	for _, answered := range pending {
		answered(nil)
	}
	for _, t := range c.topics {
		if t.id != "" {
			t.id, t.ready = "", make(chan struct{})
		}
		if !c.closing {
			for _, member := range t.members {
				member.interrupted(since)
			}
		}
	}
	if c.options.OnDisconnected != nil {
		c.events.add(func() { c.options.OnDisconnected(lost) })
	}
	return c.closing
}

func (c *Client) finish(err error) {
	c.mu.Lock()
	c.connection, c.err, c.closing = nil, err, true
	for _, t := range c.topics {
		c.endTopic(t, err)
	}
	if err != nil {
		c.tell(err)
	}
	c.mu.Unlock()
	c.cancel()
	close(c.done)
	c.events.close()
}

// take takes one message of the server.
func (c *Client) take(message string) {
	if strings.HasPrefix(message, "{") {
		var read incoming
		if json.Unmarshal([]byte(message), &read) == nil {
			c.takeOther(&read)
		}
		return
	}
	label, payload, found := strings.Cut(message, "?")
	if !found {
		return
	}
	parsed, malformed := parseHead(label)
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.byID[parsed.id]
	if t == nil {
		return
	}
	if malformed == nil && t.wildcard && parsed.channel == "" {
		malformed = errors.New("the field c is missing")
	}
	if malformed != nil {
		if !t.told {
			t.told = true
			for _, member := range t.members {
				member.tell(failure(ErrRejected, "", malformed, "a message of %s has a malformed label and was left out, as later ones will be: %v", t.text, malformed))
			}
		}
		return
	}
	received := &Message{text: payload, channel: parsed.channel}
	if received.channel == "" {
		received.channel = t.text
	}
	if received.position = t.positionOf(parsed.offset); received.position != "" {
		t.position = received.position
	}
	for _, member := range t.members {
		member.put(received)
	}
}

func (c *Client) takeOther(read *incoming) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, found := textOf(read.ID); found {
		if answered := c.pending[id]; answered != nil {
			delete(c.pending, id)
			answered(read)
		}
		return
	}
	name, _ := textOf(read.Evt)
	var seconds float64
	if json.Unmarshal(read.Secs, &seconds) != nil || seconds < 0 {
		seconds = 0
	}
	seconds = min(seconds, 86_400)
	var ids []string
	if json.Unmarshal(read.IDs, &ids) != nil {
		ids = nil
	}
	switch name {
	case "expiring":
		c.expiring(time.Duration(seconds * float64(time.Second)))
	case "note":
		if c.options.OnNote != nil && len(read.Note) > 0 {
			c.events.add(func() { c.options.OnNote(read.Note) })
		}
	case "gap":
		var positions map[string]json.RawMessage
		_ = json.Unmarshal(read.At, &positions) // only for subscriptions with positions
		for _, id := range ids {
			if t := c.byID[id]; t != nil {
				if at, found := textOf(positions[id]); found && t.offsets {
					t.position, t.epoch = at, epochOf(at)
				}
				for _, member := range t.members {
					member.gap(seconds)
				}
			}
		}
	case "unsubscribed":
		code, _ := textOf(read.Code)
		reason, _ := textOf(read.Why)
		for _, id := range ids {
			if t := c.byID[id]; t != nil {
				c.endTopic(t, refusal(code, 0, "the server ended the subscription: "+reason))
			}
		}
	}
}

// expiring tells that the token ends, and renews it if it can be.
func (c *Client) expiring(left time.Duration) {
	if c.options.OnExpiring != nil {
		c.events.add(func() { c.options.OnExpiring(left) })
	}
	if c.options.Token == nil || c.fixed || c.renewing || c.connection == nil {
		return
	}
	c.renewing = true
	connection := c.connection
	// Clients whose tokens end together do not ask together.
	delay := time.Duration(float64(left) * (0.25 + 0.25*rand.Float64())) //nolint:gosec // a spread, no secret
	c.work.Add(1)
	go func() {
		defer c.work.Done()
		c.renew(connection, delay)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.renewing = false
	}()
}

// renew sends a fresh token, however many attempts that takes, until the connection is lost.
func (c *Client) renew(connection *connection, delay time.Duration) {
	delays := backoff{base: c.options.BackoffBase, most: c.options.BackoffCap}
	for {
		timer := time.NewTimer(delay)
		select {
		case <-connection.context.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		token, err := c.options.Token(connection.context)
		if err != nil {
			err = failure(ErrToken, "", err, "there is no token: %v", err)
		} else {
			err = c.authenticate(connection, token)
		}
		if err == nil || connection.context.Err() != nil {
			return
		}
		c.tell(err)
		delay = delays.next()
	}
}

func (c *Client) authenticate(connection *connection, token string) error {
	answer := make(chan *incoming, 1)
	c.mu.Lock()
	if c.connection != connection {
		c.mu.Unlock()
		return nil
	}
	c.act(map[string]any{"act": "auth", "token": token}, func(reply *incoming) { answer <- reply })
	c.mu.Unlock()
	timer := time.NewTimer(c.options.ResponseTimeout)
	defer timer.Stop()
	select {
	case reply := <-answer:
		if reply != nil && reply.failed() {
			return reply.refusal()
		}
		return nil
	case <-timer.C:
		return failure(ErrTimeout, "", nil, "no answer to auth within %s", c.options.ResponseTimeout)
	}
}
