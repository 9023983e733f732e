package realizehit

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"
)

// State says where a subscription stands.
type State string

// The states of a subscription.
const (
	Subscribing   State = "subscribing"   // asked for; also while the connection is away
	Subscribed    State = "subscribed"    // in force: nothing that is published from here on is missed
	Unsubscribing State = "unsubscribing" // to be ended
	Unsubscribed  State = "unsubscribed"  // ended for good
)

// Gap says that messages may be missing.
type Gap struct {
	// Seconds is how long the connection, or the server's broker, was away; 0 if messages were dropped.
	Seconds float64
	// Dropped is how many messages the full queue dropped.
	Dropped int
}

// SubscribeOptions are the settings of a subscription. The zero value means the defaults.
//
// The functions are called in the order of what happened, and never two at a time, except OnMessage, which runs beside
// the others. A function that panics is logged and ends nothing.
type SubscribeOptions struct {
	// Since is a position: what came after it is sent first, or a gap is told.
	Since string
	// Last is how many of the last messages are sent first.
	Last int
	// Offsets asks for positions, by which the subscription resumes after a lost connection.
	Offsets bool
	// Every lets the server send at most one message in this time, always the newest; 0 for every message. It is rounded
	// up to milliseconds. Subscriptions of a client to one pattern have the same; it excludes Since, Last and Offsets.
	Every time.Duration
	// Queue is how many messages may wait; the client's if it is 0. The oldest are dropped when it is full.
	Queue int

	OnMessage   func(*Message)
	OnState     func(State)
	OnGap       func(Gap)
	OnRecovered func() // the subscription is in force again, and nothing was missed
	OnError     func(error)
}

// Subscription is what a client subscribed to. Read it with [Subscription.Next] or [Subscription.Messages], or give
// OnMessage. It is safe for concurrent use.
type Subscription struct {
	client  *Client
	topic   *topic
	options SubscribeOptions
	pattern Pattern

	// Guarded by client.mu.
	state State
	away  time.Time // of the loss of the connection; zero if there was none

	mu      sync.Mutex
	queue   []*Message
	first   int // index of the oldest message in queue
	count   int
	dropped int
	untold  int // dropped since the last gap
	ended   bool
	err     error
	news    chan struct{}
}

func newSubscription(client *Client, pattern Pattern, options SubscribeOptions) *Subscription {
	if options.Queue <= 0 {
		options.Queue = client.options.Queue
	}
	return &Subscription{
		client: client, pattern: pattern, options: options, state: Subscribing,
		queue: make([]*Message, 0, min(options.Queue, 64)), news: make(chan struct{}, 1),
	}
}

// Pattern returns the pattern as it was given.
func (s *Subscription) Pattern() Pattern { return s.pattern }

// ID returns the pattern's label on the wire; empty if the subscription is not in force.
func (s *Subscription) ID() string {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.topic.id
}

// State returns where the subscription stands.
func (s *Subscription) State() State {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.state
}

// Dropped returns how many messages were lost because the queue was full.
func (s *Subscription) Dropped() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropped
}

// Next returns the next message and waits for it.
//
// It returns the context's error, [ErrClosed] once the subscription has ended, or the error that ended it.
func (s *Subscription) Next(ctx context.Context) (*Message, error) {
	for {
		if message, err := s.take(); message != nil || err != nil {
			return message, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.news:
		}
	}
}

// Messages returns an iterator over the messages, which ends with the context or the subscription. Whether an error ended
// it, [Subscription.Err] says.
func (s *Subscription) Messages(ctx context.Context) iter.Seq[*Message] {
	return func(yield func(*Message) bool) {
		for {
			message, err := s.Next(ctx)
			if err != nil || !yield(message) {
				return
			}
		}
	}
}

// Err returns the error that ended the subscription; nil while it has not ended, and after Unsubscribe and Close.
func (s *Subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Unsubscribe ends the subscription and waits until the server has confirmed it. What waits in the queue is thrown away.
func (s *Subscription) Unsubscribe(ctx context.Context) error { return s.client.unsubscribe(ctx, s) }

func (s *Subscription) take() (*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count > 0 {
		message := s.queue[s.first]
		s.queue[s.first] = nil
		s.first = (s.first + 1) % len(s.queue)
		s.count--
		if s.untold > 0 {
			s.tellDropped()
		}
		if s.count > 0 || s.ended {
			s.wake()
		}
		return message, nil
	}
	if s.ended {
		s.wake() // another reader may wait too
		if s.err != nil {
			return nil, s.err
		}
		return nil, ErrClosed
	}
	return nil, nil
}

// put queues a message and drops the oldest one if there is no room.
func (s *Subscription) put(message *Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	switch {
	case s.count == s.options.Queue:
		s.queue[s.first] = message
		s.first = (s.first + 1) % len(s.queue)
		s.dropped++
		s.untold++
		if s.dropped == s.untold || s.untold == s.options.Queue { // the first one at once, then not each
			s.tellDropped()
		}
	case s.count == len(s.queue): // a ring that grows to its bound
		ring := make([]*Message, 0, min(2*len(s.queue)+8, s.options.Queue))
		ring = append(append(ring, s.queue[s.first:]...), s.queue[:s.first]...)
		s.queue, s.first = append(ring, message)[:cap(ring)], 0
		s.count++
	default:
		s.queue[(s.first+s.count)%len(s.queue)] = message
		s.count++
	}
	s.wake()
}

func (s *Subscription) tellDropped() {
	gap := Gap{Dropped: s.untold}
	s.untold = 0
	if s.options.OnGap != nil {
		s.client.events.add(func() { s.options.OnGap(gap) })
	}
}

func (s *Subscription) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	if err == nil {
		s.queue, s.first, s.count = nil, 0, 0
	}
	s.wake()
}

func (s *Subscription) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// callBack hands messages to OnMessage until the subscription ends.
func (s *Subscription) callBack() {
	for {
		if message, err := s.take(); err != nil {
			return
		} else if message != nil {
			s.handOver(message)
		} else {
			<-s.news
		}
	}
}

func (s *Subscription) handOver(message *Message) {
	defer recovered()
	s.options.OnMessage(message)
}

// The functions below are called with client.mu held.

func (s *Subscription) move(state State) {
	if s.state == state || s.state == Unsubscribed {
		return
	}
	s.state = state
	if s.options.OnState != nil {
		s.client.events.add(func() { s.options.OnState(state) })
	}
}

func (s *Subscription) inForce(recovered bool) {
	s.move(Subscribed)
	if s.away.IsZero() {
		return
	}
	seconds := time.Since(s.away).Seconds()
	s.away = time.Time{}
	if !recovered {
		s.gap(seconds)
	} else if s.options.OnRecovered != nil {
		s.client.events.add(s.options.OnRecovered)
	}
}

func (s *Subscription) gap(seconds float64) {
	if s.options.OnGap != nil {
		s.client.events.add(func() { s.options.OnGap(Gap{Seconds: seconds}) })
	}
}

func (s *Subscription) interrupted(since time.Time) {
	if s.state != Subscribed {
		return
	}
	if s.away.IsZero() {
		s.away = since
	}
	s.move(Subscribing)
}

func (s *Subscription) finish(err error) {
	s.end(err)
	s.move(Unsubscribed)
	if err != nil {
		s.tell(err)
	}
}

func (s *Subscription) tell(err error) {
	if s.options.OnError != nil {
		s.client.events.add(func() { s.options.OnError(err) })
	}
}

// guarded calls a function of the program; one that panics is logged.
func guarded(call func()) {
	defer recovered()
	call()
}

func recovered() {
	if problem := recover(); problem != nil {
		slog.Error("realizehit: a function that the program gave has panicked", "panic", fmt.Sprint(problem))
	}
}
