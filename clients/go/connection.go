package realizehit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// connection is one WebSocket: actions out in the order in which they were sent, messages in.
type connection struct {
	socket    *websocket.Conn
	context   context.Context
	cancel    context.CancelFunc
	heard     atomic.Int64 // nanoseconds since began
	began     time.Time
	heartbeat time.Duration

	mu   sync.Mutex
	out  []string
	news chan struct{}
}

func (o *Options) dial(ctx context.Context, address string) (*connection, error) {
	c := &connection{began: time.Now(), heartbeat: o.Heartbeat, news: make(chan struct{}, 1)}
	header := o.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if o.Token != nil {
		token, err := o.Token(ctx)
		if err != nil {
			return nil, failure(ErrToken, "", err, "there is no token: %v", err)
		}
		header.Set("Authorization", "Bearer "+token)
	}
	ctx, cancel := context.WithTimeout(ctx, o.OpenTimeout)
	defer cancel()
	socket, response, err := websocket.Dial(ctx, address, &websocket.DialOptions{
		HTTPClient: o.HTTPClient,
		HTTPHeader: header,
		OnPingReceived: func(context.Context, []byte) bool {
			c.hear()
			return true
		},
		OnPongReceived: func(context.Context, []byte) { c.hear() },
	})
	if err != nil {
		return nil, handshakeError(response, err)
	}
	socket.SetReadLimit(o.MaxMessage)
	c.socket = socket
	c.context, c.cancel = context.WithCancel(context.Background())
	c.hear()
	return c, nil
}

func handshakeError(response *http.Response, err error) error {
	if response == nil || response.StatusCode < 400 || response.StatusCode >= 500 {
		return failure(ErrUnavailable, "unavailable", err, "the server cannot be reached: %v", err)
	}
	var body []byte
	if response.Body != nil {
		body, _ = io.ReadAll(io.LimitReader(response.Body, 64<<10))
	}
	return problem(response, body, ErrUnavailable)
}

func (c *connection) hear() { c.heard.Store(int64(time.Since(c.began))) }

// lastHeard returns when anything last came.
func (c *connection) lastHeard() time.Time { return c.began.Add(time.Duration(c.heard.Load())) }

// send queues a text message.
func (c *connection) send(text string) {
	c.mu.Lock()
	c.out = append(c.out, text)
	c.mu.Unlock()
	select {
	case c.news <- struct{}{}:
	default:
	}
}

// serve reads until the connection is lost.
func (c *connection) serve(deliver func(string)) error {
	done := make(chan struct{}, 2)
	go func() { c.write(); done <- struct{}{} }()
	go func() { c.watch(); done <- struct{}{} }()
	stop := context.AfterFunc(c.context, func() { _ = c.socket.CloseNow() })
	err := c.read(deliver)
	stop()
	c.cancel()
	_ = c.socket.CloseNow()
	<-done
	<-done
	return lost(err)
}

func (c *connection) read(deliver func(string)) error {
	buffer := make([]byte, 0, 4096) // of one message after another
	for {
		kind, reader, err := c.socket.Reader(context.Background()) // one that can end costs a timer for each message
		if err != nil {
			return err
		}
		if buffer, err = c.readAll(reader, buffer[:0]); err != nil {
			return err
		}
		if kind != websocket.MessageText {
			continue // of a later version
		}
		if !utf8.Valid(buffer) {
			_ = c.socket.Close(websocket.StatusInvalidFramePayloadData, "not UTF-8")
			return errors.New("the server sent a text that is not UTF-8")
		}
		deliver(string(buffer))
		if cap(buffer) > keptBuffer {
			buffer = make([]byte, 0, 4096)
		}
	}
}

const keptBuffer = 1 << 16 // bytes of the largest buffer that is kept for the next message

// readAll reads a message into a buffer. It notes that something came also while a long message is under way.
func (c *connection) readAll(reader io.Reader, buffer []byte) ([]byte, error) {
	for {
		if len(buffer) == cap(buffer) {
			buffer = append(buffer, 0)[:len(buffer)]
		}
		count, err := reader.Read(buffer[len(buffer):cap(buffer)])
		buffer = buffer[:len(buffer)+count]
		if count > 0 || len(buffer) == 0 {
			c.hear()
		}
		if err == io.EOF {
			return buffer, nil
		}
		if err != nil {
			return buffer, err
		}
	}
}

func (c *connection) write() {
	for {
		select {
		case <-c.context.Done():
			return
		case <-c.news:
		}
		c.mu.Lock()
		texts := c.out
		c.out = nil
		c.mu.Unlock()
		for _, text := range texts {
			if err := c.socket.Write(c.context, websocket.MessageText, []byte(text)); err != nil {
				_ = c.socket.CloseNow()
				return
			}
		}
	}
}

// watch gives the connection up if nothing comes, and asks for a sign of life before that.
func (c *connection) watch() {
	ticker := time.NewTicker(max(c.heartbeat/4, time.Millisecond))
	defer ticker.Stop()
	var asking atomic.Bool
	for {
		select {
		case <-c.context.Done():
			return
		case <-ticker.C:
		}
		silence := time.Since(c.lastHeard())
		if silence >= c.heartbeat {
			_ = c.socket.CloseNow()
			return
		}
		if silence >= c.heartbeat/2 && asking.CompareAndSwap(false, true) {
			go func() {
				_ = c.socket.Ping(c.context)
				asking.Store(false)
			}()
		}
	}
}

// close says goodbye, and ends the connection within a moment.
func (c *connection) close() {
	said := make(chan struct{})
	go func() {
		_ = c.socket.Close(websocket.StatusNormalClosure, "")
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(closeTimeout):
	}
	c.cancel()
}

const closeTimeout = 2 * time.Second // for the server's part of the goodbye

var codes = map[int]string{4501: "not-authenticated", 4502: "forbidden", 4503: "too-many-connections"}

func lost(err error) *Error {
	var closed websocket.CloseError
	if !errors.As(err, &closed) {
		return failure(ErrDisconnected, "", err, "the connection is lost: %v", err)
	}
	code := int(closed.Code)
	text := fmt.Sprintf("the server closed the connection with %d: %s", code, closed.Reason)
	if closed.Code == websocket.StatusNoStatusRcvd {
		code = 0
	}
	return &Error{Kind: ErrDisconnected, Code: codes[code], Status: code, Text: text, RetryAfter: drainDelay(closed), cause: err}
}

var delayReason = regexp.MustCompile(`^delay=(\d{1,9})$`)

const (
	maxDelay  = 300 * time.Second // that a server can keep a client away
	codeDrain = 4001
)

// drainDelay returns after how long a server that goes away wants the client back; negative if it does not say.
func drainDelay(closed websocket.CloseError) time.Duration {
	match := delayReason.FindStringSubmatch(closed.Reason)
	if closed.Code != codeDrain || match == nil {
		return -1
	}
	milliseconds, _ := strconv.Atoi(match[1])
	return min(time.Duration(milliseconds)*time.Millisecond, maxDelay)
}

// incoming is what the server sends besides payloads.
type incoming struct {
	ID    json.RawMessage `json:"id"`
	Ret   json.RawMessage `json:"ret"`
	Err   json.RawMessage `json:"err"`
	Code  json.RawMessage `json:"code"`
	At    json.RawMessage `json:"at"`
	Evt   json.RawMessage `json:"evt"`
	IDs   json.RawMessage `json:"ids"`
	Secs  json.RawMessage `json:"seconds"`
	Why   json.RawMessage `json:"reason"`
	Found json.RawMessage `json:"recovered"`
	Note  json.RawMessage `json:"note"`
}

// textOf returns a field if it is a text; a server of a later version may send something else.
func textOf(field json.RawMessage) (string, bool) {
	var text string
	if len(field) == 0 || field[0] != '"' || json.Unmarshal(field, &text) != nil {
		return "", false
	}
	return text, true
}
