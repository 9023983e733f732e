package realizehit

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

type action struct {
	ID, Act, Since, Token string
	Last                  int
	Pat                   Pattern
}

// script is one connection of a server that does as a test says.
type script struct {
	t      *testing.T
	socket *websocket.Conn
}

func (s *script) next() action {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, text, err := s.socket.Read(ctx)
	var read action
	if err != nil || json.Unmarshal(text, &read) != nil {
		s.t.Errorf("the client sent no action: %s %v", text, err)
	}
	return read
}

func (s *script) send(texts ...string) {
	for _, text := range texts {
		if err := s.socket.Write(context.Background(), websocket.MessageText, []byte(text)); err != nil {
			s.t.Error(err)
		}
	}
}

// reply answers the next action.
func (s *script) reply(fields string) action {
	read := s.next()
	s.send(`{"id":"` + read.ID + `",` + fields + `}`)
	return read
}

// scripted runs a server whose n-th connection follows the n-th script.
func scripted(t *testing.T, options Options, scripts ...func(*script)) *Client {
	t.Helper()
	number := make(chan int, 1)
	number <- 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mine := <-number
		number <- mine + 1
		if mine >= len(scripts) {
			http.Error(w, "no script is left", http.StatusForbidden)
			return
		}
		socket, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = socket.CloseNow() }()
		scripts[mine](&script{t, socket})
	}))
	t.Cleanup(server.Close)
	if options.BackoffBase == 0 {
		options.BackoffBase = time.Millisecond
	}
	client, err := Connect(context.Background(), strings.Replace(server.URL, "http", "ws", 1), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func wait[T any](t *testing.T, values <-chan T) T {
	t.Helper()
	select {
	case value := <-values:
		return value
	case <-time.After(10 * time.Second):
		t.Fatal("it did not come")
		panic("")
	}
}

func idle(s *script) { _, _, _ = s.socket.Read(context.Background()) }

var news = Pattern{"kind": "news"}

func TestReturnsAndTellsAGap(t *testing.T) {
	client := scripted(t, Options{}, func(s *script) {
		s.reply(`"ret":"bc86961b"`)
		s.send(`bc86961b?1`)
	}, func(s *script) {
		s.reply(`"ret":"bc86961b"`)
		s.send(`bc86961b?2`)
		idle(s)
	})
	gaps := make(chan Gap, 9)
	sub, err := client.Subscribe(context.Background(), news, SubscribeOptions{OnGap: func(gap Gap) { gaps <- gap }})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for message := range sub.Messages(context.Background()) {
		if texts = append(texts, message.Text()); len(texts) == 2 {
			break
		}
	}
	if texts[0] != "1" || texts[1] != "2" || wait(t, gaps).Seconds <= 0 {
		t.Fatal(texts)
	}
}

func TestResumesAfterItsLastMessage(t *testing.T) {
	since := make(chan action, 9)
	client := scripted(t, Options{}, func(s *script) {
		since <- s.reply(`"ret":"bc86961b","at":"k3f09a2c.16"`)
		s.send(`bc86961b@o=17?1`)
	}, func(s *script) {
		since <- s.reply(`"ret":"bc86961b","at":"k3f09a2c.17","recovered":true`)
		s.send(`bc86961b@o=18?2`)
	}, func(s *script) {
		since <- s.reply(`"ret":"bc86961b","at":"zzzzzzzz.4","recovered":false`)
		s.send(`bc86961b@o=5?3`)
		idle(s)
	})
	gaps, recovered := make(chan Gap, 9), make(chan bool, 9)
	sub, err := client.Subscribe(context.Background(), news, SubscribeOptions{
		Last: 3, OnGap: func(gap Gap) { gaps <- gap }, OnRecovered: func() { recovered <- true },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"k3f09a2c.17", "k3f09a2c.18", "zzzzzzzz.5"} {
		message, err := sub.Next(context.Background())
		if err != nil || message.Position() != want {
			t.Fatal(message, err, want)
		}
	}
	if first := wait(t, since); first.Last != 3 || first.Since != "" {
		t.Error(first)
	}
	if second := wait(t, since); second.Since != "k3f09a2c.17" {
		t.Error(second)
	}
	if third := wait(t, since); third.Since != "k3f09a2c.18" {
		t.Error(third)
	}
	wait(t, recovered)
	wait(t, gaps)
	if len(gaps) != 0 || len(recovered) != 0 {
		t.Error("something is told twice")
	}
}

func TestEndsWhenTheServerForbidsToReturn(t *testing.T) {
	subscribed := make(chan bool)
	client := scripted(t, Options{}, func(s *script) {
		s.reply(`"ret":"bc86961b"`)
		wait(t, subscribed)
		_ = s.socket.Close(4502, "rate-limited")
	})
	sub, err := client.Subscribe(context.Background(), news, SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	close(subscribed)
	_, err = sub.Next(context.Background())
	var known *Error
	if !errors.As(err, &known) || known.Status != 4502 || known.Code != "forbidden" {
		t.Fatal(err)
	}
	wait(t, client.Done())
	if client.Err() == nil || sub.State() != Unsubscribed {
		t.Fatal(client.Err(), sub.State())
	}
	if _, err := client.Subscribe(context.Background(), news, SubscribeOptions{}); err == nil {
		t.Fatal("a client that has ended subscribes")
	}
}

func TestRenewsItsToken(t *testing.T) {
	tokens := make(chan string, 3)
	tokens <- "one"
	tokens <- "two"
	sent := make(chan action, 1)
	client := scripted(t, Options{Token: func(context.Context) (string, error) { return <-tokens, nil }}, func(s *script) {
		s.send(`{"evt":"expiring","seconds":0.2}`)
		sent <- s.reply(`"ret":"ok"`)
		idle(s)
	})
	if got := wait(t, sent); got.Act != "auth" || got.Token != "two" || !client.Connected() {
		t.Fatal(got)
	}
}

func TestAContextEndsAWait(t *testing.T) {
	client := scripted(t, Options{}, func(s *script) {
		s.next()
		idle(s)
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Subscribe(ctx, news, SubscribeOptions{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestTwoOfOnePattern(t *testing.T) {
	client := scripted(t, Options{}, func(s *script) {
		s.reply(`"ret":"bc86961b"`)
		s.reply(`"ret":"f89c383c"`)
		s.send(`bc86961b?1`)
		idle(s)
	})
	one, err := client.Subscribe(context.Background(), news, SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := client.Subscribe(context.Background(), news, SubscribeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Subscribe(context.Background(), news, SubscribeOptions{Last: 1}); err == nil {
		t.Fatal("a second subscription replays")
	}
	if _, err := client.Subscribe(context.Background(), Pattern{"kind": "sport"}, SubscribeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []*Subscription{one, two} {
		if message, err := sub.Next(context.Background()); err != nil || message.Text() != "1" {
			t.Fatal(message, err)
		}
	}
}

func TestQueue(t *testing.T) {
	client := &Client{events: newEvents(), options: Options{Queue: 4}}
	sub := newSubscription(client, news, SubscribeOptions{OnGap: func(Gap) {}})
	for number := range 10 {
		sub.put(&Message{text: string(rune('0' + number))})
	}
	for _, want := range "6789" {
		if message, _ := sub.Next(context.Background()); message.Text() != string(want) {
			t.Fatal(message.Text())
		}
	}
	if sub.Dropped() != 6 || len(client.events.waiting) < 2 {
		t.Fatal(sub.Dropped(), len(client.events.waiting))
	}
	for number := range 3 { // past the end of the ring
		sub.put(&Message{text: string(rune('a' + number))})
	}
	if message, _ := sub.Next(context.Background()); message.Text() != "a" {
		t.Fatal(message.Text())
	}
	sub.end(nil)
	if _, err := sub.Next(context.Background()); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestQueueGrows(t *testing.T) {
	sub := newSubscription(&Client{options: Options{Queue: 1000}, events: newEvents()}, news, SubscribeOptions{})
	put, taken := 0, 0
	for round := range 400 {
		for range round % 7 {
			sub.put(&Message{text: string(rune(put))})
			put++
		}
		for range round % 5 {
			if taken < put {
				if message, _ := sub.take(); message.Text() != string(rune(taken)) {
					t.Fatal(taken)
				}
				taken++
			}
		}
	}
	if sub.Dropped() != 0 {
		t.Fatal(sub.Dropped())
	}
}

func TestDelaysAreBounded(t *testing.T) {
	delays := backoff{base: time.Millisecond, most: 5 * time.Millisecond}
	for range 100 {
		if delay := delays.next(); delay < 0 || delay > 5*time.Millisecond {
			t.Fatal(delay)
		}
	}
}

func TestCloseWhileAway(t *testing.T) {
	lost := make(chan *Error, 1)
	options := Options{
		BackoffBase: time.Hour, BackoffCap: time.Hour, OnDisconnected: func(err *Error) { lost <- err },
	}
	client := scripted(t, options, func(*script) {})
	wait(t, lost)
	client.Close()
	wait(t, client.Done())
	if client.Err() != nil {
		t.Fatal(client.Err())
	}
}
