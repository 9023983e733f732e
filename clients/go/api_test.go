package realizehit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// seen is what came to a server.
type seen struct {
	mu     sync.Mutex
	header []http.Header
	bodies []string
}

func (s *seen) add(header http.Header, body string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.header, s.bodies = append(s.header, header), append(s.bodies, body)
	return len(s.bodies)
}

func (s *seen) all() ([]http.Header, []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.header, s.bodies
}

// answering serves what the functions answer, one after the other, and then "queued".
func answering(t *testing.T, answers ...http.HandlerFunc) (*API, *seen) {
	t.Helper()
	requests := &seen{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		number := requests.add(r.Header, string(body))
		if number <= len(answers) {
			answers[number-1](w, r)
			return
		}
		_, _ = io.WriteString(w, `{"status":"queued","id":"bc86961b","nodes":1}`)
	}))
	t.Cleanup(server.Close)
	api, err := NewAPI(server.URL, APIOptions{Key: "rhk_x", Timeout: time.Second, BackoffBase: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	return api, requests
}

func status(code int, header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if header != "" {
			w.Header().Set("Retry-After", header)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func abort(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestPublishRetriesWithOneKey(t *testing.T) {
	api, requests := answering(t, status(503, "0", `{"detail":"away","code":"unavailable"}`), abort)
	result, err := api.Publish(context.Background(), Pattern{"kind": "news"}, json.RawMessage(`{"a": 1.0,  "b":2}`))
	if err != nil || result.ID != "bc86961b" || result.Nodes != 1 {
		t.Fatal(result, err)
	}
	keys := map[string]bool{}
	headers, _ := requests.all()
	for _, header := range headers {
		keys[header.Get("Idempotency-Key")] = true
		if header.Get("Authorization") != "Bearer rhk_x" {
			t.Error("there is no key")
		}
	}
	if len(headers) != 3 || len(keys) != 1 || keys[""] {
		t.Fatal(len(headers), keys)
	}
}

func TestRawPayloadsStayAsTheyAre(t *testing.T) {
	api, requests := answering(t)
	_, err := api.Publish(context.Background(), Pattern{"kind": "news"}, json.RawMessage(`{"a": 1.0,  "<":2}`))
	_, bodies := requests.all()
	if err != nil || bodies[0] != `{"pattern":{"kind":"news"},"payload":{"a": 1.0,  "<":2}}` {
		t.Fatal(bodies[0], err)
	}
	if _, err := api.Publish(context.Background(), Pattern{"kind": "news"}, json.RawMessage(`{"a"`)); err == nil {
		t.Fatal("what is not JSON was sent")
	}
}

func TestErrorsSayWhatTheyMean(t *testing.T) {
	lost := []http.HandlerFunc{abort, abort, abort}
	for _, row := range []struct {
		kind    error
		answers []http.HandlerFunc
		tries   int
	}{
		{ErrForbidden, []http.HandlerFunc{status(403, "0", `{"detail":"no","code":"forbidden"}`)}, 1},
		{ErrNotAuthenticated, []http.HandlerFunc{status(401, "", `{"detail":"no","code":"not-authenticated"}`)}, 1},
		{ErrBadPattern, []http.HandlerFunc{status(400, "", `{"detail":"no","code":"bad-pattern"}`)}, 1},
		{ErrTooLarge, []http.HandlerFunc{status(413, "", `<h1>nginx</h1>`)}, 1},
		{ErrRejected, []http.HandlerFunc{status(502, "", `<h1>nginx</h1>`)}, 1},
		{ErrPublishUnclear, lost, 3},
		{ErrPublishUnclear, []http.HandlerFunc{abort, status(503, "0", `{}`), status(429, "0", `{}`)}, 3},
	} {
		api, requests := answering(t, row.answers...)
		_, err := api.Publish(context.Background(), Pattern{"kind": "news"}, 1)
		if _, bodies := requests.all(); !errors.Is(err, row.kind) || len(bodies) != row.tries {
			t.Errorf("%v: %v after %d requests", row.kind, err, len(bodies))
		}
	}
}

func TestUnclearRetriesCanBeTurnedOff(t *testing.T) {
	for _, row := range []struct {
		kind  error
		first http.HandlerFunc
		tries int
	}{
		{ErrPublishUnclear, abort, 1},
		{ErrPublishUnclear, status(503, "", `{}`), 1},
		{nil, status(503, "0", `{}`), 2},
		{nil, status(429, "0", `{}`), 2},
	} {
		api, requests := answering(t, row.first)
		api.options.NoUnclearRetries = true
		_, err := api.Publish(context.Background(), Pattern{"kind": "news"}, 1)
		if _, bodies := requests.all(); !errors.Is(err, row.kind) || len(bodies) != row.tries {
			t.Errorf("%v: %v after %d requests", row.kind, err, len(bodies))
		}
	}
}

func TestWhatMayBePublishedIsNotSentAgainWhenItsKeyMayBeForgotten(t *testing.T) {
	api, requests := answering(t, abort, status(503, "61", `{}`))
	api.options.Timeout = 100 * time.Second
	_, err := api.Publish(context.Background(), Pattern{"kind": "news"}, 1)
	if _, bodies := requests.all(); !errors.Is(err, ErrPublishUnclear) || len(bodies) != 2 {
		t.Fatal(err, len(bodies))
	}
}

func TestHistory(t *testing.T) {
	body := `{"id":"bc86961b","at":"k3f09a2c.17","first":9,"recovered":true,"more":true,"messages":[` +
		`{"at":"k3f09a2c.16","payload":{"a": 1.0},"pattern":{"kind":"news"}},{"at":"k3f09a2c.17","payload":2}]}`
	api, _ := answering(t, abort, status(503, "", `{}`), status(200, "", body), status(404, "", `{"code":"no-history"}`))
	api.options.NoUnclearRetries = true // reading publishes nothing
	history, err := api.Since(context.Background(), Pattern{"kind": "news"}, "k3f09a2c.15")
	if err != nil || len(history.Messages) != 2 {
		t.Fatal(history, err)
	}
	first := history.Messages[0]
	if string(first.Payload) != `{"a": 1.0}` || first.At != "k3f09a2c.16" || first.Pattern["kind"] != "news" {
		t.Fatal(first)
	}
	if history.At != "k3f09a2c.17" || history.First != 9 || !history.Recovered || !history.More {
		t.Fatal(history)
	}
	var known *Error
	_, err = api.Last(context.Background(), Pattern{"kind": "news"}, 2)
	if !errors.As(err, &known) || known.Code != "no-history" || known.Status != 404 {
		t.Fatal(err)
	}
}

func TestALongRetryAfterIsNotWaitedFor(t *testing.T) {
	api, _ := answering(t, status(429, "3600", `{"detail":"too fast","code":"rate-limited"}`))
	_, err := api.Publish(context.Background(), Pattern{"kind": "news"}, 1)
	if asked, told := RetryAfterOf(err); !errors.Is(err, ErrRateLimited) || !told || asked != time.Hour {
		t.Fatal(err, asked)
	}
}

func TestManyHaveAnOutcomeEach(t *testing.T) {
	api, requests := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"results":[{"status":"queued","id":"x","nodes":2},{"status":"error","code":"bad-pattern","detail":"no"}]}`)
	})
	outcomes := api.PublishMany(context.Background(), []Publication{
		{Pattern: Pattern{"kind": "news"}, Payload: 1}, {Pattern: Pattern{"kind": "news"}, Payload: make(chan int)},
		{Pattern: Pattern{}, Payload: 2},
	})
	if outcomes[0].Err != nil || outcomes[0].Nodes != 2 || outcomes[1].Err == nil || !errors.Is(outcomes[2].Err, ErrBadPattern) {
		t.Fatal(outcomes)
	}
	_, bodies := requests.all()
	var sent struct{ Messages []struct{ Key string } }
	if err := json.Unmarshal([]byte(bodies[0]), &sent); err != nil || len(sent.Messages) != 2 || sent.Messages[0].Key == "" {
		t.Fatal(bodies[0], err)
	}
	if len(bodies) != 1 || len(api.PublishMany(context.Background(), nil)) != 0 {
		t.Fatal("something else was sent")
	}
}

func TestNothingIsSentAfterABrokenBatch(t *testing.T) {
	api, requests := answering(t, abort, abort, abort)
	messages := make([]Publication, batchMessages+1)
	for place := range messages {
		messages[place] = Publication{Pattern: Pattern{"kind": "news"}, Payload: place}
	}
	outcomes := api.PublishMany(context.Background(), messages)
	if !errors.Is(outcomes[0].Err, ErrPublishUnclear) || !errors.Is(outcomes[batchMessages].Err, ErrUnavailable) {
		t.Fatal(outcomes[0].Err, outcomes[batchMessages].Err)
	}
	if _, bodies := requests.all(); len(bodies) != 3 {
		t.Fatal(len(bodies))
	}
}

func TestManyAtOnce(t *testing.T) {
	api, _ := answering(t)
	var work sync.WaitGroup
	var failed atomic.Int32
	for range 20 {
		work.Add(1)
		go func() {
			defer work.Done()
			if _, err := api.Publish(context.Background(), Pattern{"kind": "news"}, 1); err != nil {
				failed.Add(1)
			}
		}()
	}
	work.Wait()
	if failed.Load() != 0 {
		t.Fatal(failed.Load())
	}
}

func TestAddressesThatCannotBeUsed(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:8080", "ws://127.0.0.1/", "http://"} {
		if _, err := NewAPI(address, APIOptions{}); err == nil {
			t.Errorf("%q is accepted", address)
		}
	}
	if _, err := NewAPI("http://x/", APIOptions{Key: "a\nb"}); err == nil {
		t.Error("a key with a line end is accepted")
	}
}
