package realizehit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	tries         = 3
	batchMessages = 10_000  // of one request, the server's bound
	batchBytes    = 4 << 20 // of its body, likewise
	maxAnswer     = 64 << 20

	// repeatWithin is how long after the first try a message that may be published is sent again. Servers keep its key for
	// two minutes.
	repeatWithin = 60 * time.Second
)

// APIOptions are the settings of an [API]. The zero value means the defaults.
type APIOptions struct {
	// Key is sent as Authorization: Bearer, if the server asks for an API key.
	Key string
	// Timeout is how long each try may take, and the longest wait that a server can ask for. The default is 10 s.
	Timeout time.Duration
	// BackoffBase is the first bound of the delay before a retry. The default is 250 ms.
	BackoffBase time.Duration
	// NoUnclearRetries turns retries off where the server may have published the message: the answer was lost, or it was
	// 503 without Retry-After. The error is then [ErrPublishUnclear] at once. It is for servers that do not keep
	// idempotency keys, which could publish the message twice.
	NoUnclearRetries bool
	// HTTPClient sends the requests; by default a client that keeps connections and heeds the proxies of the environment.
	HTTPClient *http.Client
}

// API publishes over HTTP. It is safe for concurrent use.
//
// Every publication has an idempotency key, so that it is tried again, three times in all, after a lost connection, a
// time-out, and the answers 429 and 503. An older server that does not keep these keys could publish it twice.
type API struct {
	url     string
	options APIOptions
	client  *http.Client
}

// NewAPI returns an API client.
//
// The address is that of the API with its prefix, http://127.0.0.1:8080/. NewAPI returns an error if it cannot be used.
func NewAPI(address string, options APIOptions) (*API, error) {
	parsed, err := url.Parse(address)
	if err != nil || parsed.Host == "" || parsed.Scheme != "http" && parsed.Scheme != "https" {
		return nil, fmt.Errorf("realizehit: the address of the API is not of the form http://host:port/")
	}
	if strings.ContainsFunc(options.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("realizehit: the API key has a character that is not visible ASCII")
	}
	if options.Timeout <= 0 {
		options.Timeout = 10 * time.Second
	}
	if options.BackoffBase <= 0 {
		options.BackoffBase = 250 * time.Millisecond
	}
	client := options.HTTPClient
	if client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = 64
		transport.IdleConnTimeout = 30 * time.Second // the server closes idle connections later than that
		client = &http.Client{Transport: transport}
	}
	own := *client
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &API{url: strings.TrimSuffix(address, "/") + "/", options: options, client: &own}, nil
}

// Close closes idle connections.
func (a *API) Close() { a.client.CloseIdleConnections() }

// Result is what became of a publication.
type Result struct {
	// ID is the pattern's label on the wire.
	ID string `json:"id"`
	// Nodes is how many subscribing servers the broker reached, not how many clients.
	Nodes int `json:"nodes"`
	// At is the message's position, if the pattern has a history.
	At string `json:"at,omitempty"`
	// Duplicate says that a message with the same idempotency key was published before.
	Duplicate bool `json:"duplicate,omitempty"`
}

// Publication is one message to publish.
type Publication struct {
	Pattern Pattern
	// Payload is what encoding/json can write; a [json.RawMessage] is passed on byte for byte.
	Payload any
	// Key is an idempotency key of up to 64 characters; one is made if it is empty.
	Key string
}

// Outcome is what became of one message of many: Err is nil, or what Publish would have returned.
type Outcome struct {
	Result
	Err error
}

// Publish publishes one message. The payload is what encoding/json can write; a [json.RawMessage] is passed on byte for
// byte.
//
// The error is an [*Error].
func (a *API) Publish(ctx context.Context, pattern Pattern, payload any) (Result, error) {
	return a.PublishWithKey(ctx, pattern, payload, "")
}

// PublishWithKey publishes one message with an idempotency key: within some minutes the server publishes messages with the
// same key and pattern once.
func (a *API) PublishWithKey(ctx context.Context, pattern Pattern, payload any, key string) (Result, error) {
	body, err := encodeMessage(Publication{Pattern: pattern, Payload: payload}, false)
	if err != nil {
		return Result{}, err
	}
	if key == "" {
		key = newKey()
	}
	answer, err := a.send(ctx, http.MethodPost, a.url, body, key)
	if err != nil {
		return Result{}, err
	}
	var result Result
	if err := json.Unmarshal(answer, &result); err != nil {
		return Result{}, failure(ErrRejected, "", err, "the answer to a publication is not understood: %v", err)
	}
	return result, nil
}

// PublishMany publishes any number of messages in order, in batches of up to 10,000 messages or 4 MiB, and returns an
// outcome for each. A message that is refused does not affect the others. After a batch that could not be sent the rest
// is not sent, and has the outcome [ErrUnavailable].
func (a *API) PublishMany(ctx context.Context, messages []Publication) []Outcome {
	outcomes := make([]Outcome, len(messages))
	var items [][]byte
	var places []int
	size := 0
	var broken error
	flush := func() {
		if len(items) > 0 {
			broken = a.sendBatch(ctx, items, places, outcomes)
			items, places, size = nil, nil, 0
		}
	}
	for place, message := range messages {
		if message.Key == "" {
			message.Key = newKey()
		}
		item, err := encodeMessage(message, true)
		if err == nil && len(item) > batchBytes-64 {
			err = failure(ErrTooLarge, "too-large", nil, "the message has %d bytes; a batch has at most %d", len(item), batchBytes)
		}
		if err != nil {
			outcomes[place].Err = err
			continue
		}
		if len(items) == batchMessages || size+len(item)+1 > batchBytes-64 {
			flush()
		}
		if broken != nil {
			outcomes[place].Err = failure(ErrUnavailable, "unavailable", broken, "not sent, since an earlier batch failed: %v", broken)
			continue
		}
		items, places, size = append(items, item), append(places, place), size+len(item)+1
	}
	flush()
	return outcomes
}

// sendBatch sends one batch and returns an error if nothing more should be sent.
func (a *API) sendBatch(ctx context.Context, items [][]byte, places []int, outcomes []Outcome) error {
	body := append(append([]byte(`{"messages":[`), bytes.Join(items, []byte(","))...), "]}"...)
	answer, err := a.send(ctx, http.MethodPost, a.url+"batch", body, "")
	var read struct {
		Results []struct {
			Result
			Status, Code, Detail string
		}
	}
	if err == nil {
		if wrong := json.Unmarshal(answer, &read); wrong != nil {
			err = failure(ErrRejected, "", wrong, "the answer to a batch is not understood: %v", wrong)
		} else if len(read.Results) != len(items) {
			err = failure(ErrRejected, "", nil, "%d results for %d messages", len(read.Results), len(items))
		}
	}
	for number, place := range places {
		switch {
		case err != nil:
			outcomes[place].Err = err
		case read.Results[number].Status == "queued":
			outcomes[place].Result = read.Results[number].Result
		default:
			outcomes[place].Err = refusal(read.Results[number].Code, 0, read.Results[number].Detail)
		}
	}
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrPublishUnclear) {
		return err
	}
	return nil
}

// History is a part of the messages that the server keeps for a pattern.
type History struct {
	// ID is the pattern's label on the wire.
	ID string `json:"id"`
	// At is the position of the last message that the server has.
	At string `json:"at"`
	// First is the offset of the oldest message that the server keeps.
	First int64 `json:"first"`
	// Recovered says, of [API.Since], whether nothing after the position is missing.
	Recovered bool `json:"recovered"`
	// More says that there are further messages: ask again with the position of the last one.
	More bool `json:"more"`
	// Messages are the oldest first.
	Messages []Stored `json:"messages"`
}

// Stored is a message of the history.
type Stored struct {
	// Payload is the JSON text as it was published.
	Payload json.RawMessage `json:"payload"`
	// At is its position.
	At string `json:"at"`
	// Pattern is what it was published to, if the history is that of a pattern with wildcards.
	Pattern map[string]string `json:"pattern"`
}

// Last returns the last messages of a pattern that has a history.
//
// The error is an [*Error]; it has the code no-history if no rule of the server keeps a history of the pattern.
func (a *API) Last(ctx context.Context, pattern Pattern, count int) (History, error) {
	return a.history(ctx, pattern, "last", strconv.Itoa(count))
}

// Since returns the messages of a pattern after a position, as far as one answer holds them. The error is that of
// [API.Last].
func (a *API) Since(ctx context.Context, pattern Pattern, position string) (History, error) {
	return a.history(ctx, pattern, "since", position)
}

func (a *API) history(ctx context.Context, pattern Pattern, name, value string) (History, error) {
	text, err := json.Marshal(pattern)
	if err != nil {
		return History{}, badPattern("it cannot be written as JSON: %v", err)
	}
	query := url.Values{"pat": {string(text)}, name: {value}}
	answer, err := a.send(ctx, http.MethodGet, a.url+"history?"+query.Encode(), nil, "")
	if err != nil {
		return History{}, err
	}
	var read History
	if err := json.Unmarshal(answer, &read); err != nil {
		return History{}, failure(ErrRejected, "", err, "the history is not understood: %v", err)
	}
	return read, nil
}

func encodeMessage(message Publication, withKey bool) ([]byte, error) {
	if message.Pattern == nil {
		return nil, badPattern("there is no pattern")
	}
	pattern, err := json.Marshal(message.Pattern)
	if err != nil {
		return nil, badPattern("it cannot be written as JSON: %v", err)
	}
	payload, isRaw := message.Payload.(json.RawMessage)
	if isRaw && !json.Valid(payload) {
		return nil, failure(ErrRejected, "bad-json", nil, "the payload is not JSON")
	}
	if !isRaw { // json.Marshal would rewrite a RawMessage
		var buffer bytes.Buffer
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(message.Payload); err != nil {
			return nil, failure(ErrRejected, "bad-request", err, "the payload cannot be written as JSON: %v", err)
		}
		payload = bytes.TrimSuffix(buffer.Bytes(), []byte("\n"))
	}
	body := append(append([]byte(`{"pattern":`), pattern...), `,"payload":`...)
	body = append(body, payload...)
	if withKey {
		key, _ := json.Marshal(message.Key)
		body = append(append(body, `,"key":`...), key...)
	}
	return append(body, '}'), nil
}

func newKey() string {
	var random [16]byte
	_, _ = rand.Read(random[:]) // it never fails
	return hex.EncodeToString(random[:])
}

// send sends a request until it is answered for good.
func (a *API) send(ctx context.Context, method, address string, body []byte, key string) ([]byte, error) {
	delays := backoff{base: a.options.BackoffBase, most: 5 * time.Second}
	start := time.Now()
	var unclear error // of the latest try that may have published the message
	for try := 1; ; try++ {
		answer, err := a.try(ctx, method, address, body, key)
		asked, told := RetryAfterOf(err)
		again := errors.Is(err, ErrUnavailable) || errors.Is(err, ErrPublishUnclear) || errors.Is(err, ErrRateLimited)
		if err == nil || !again {
			return answer, err
		}
		if errors.Is(err, ErrPublishUnclear) {
			unclear = err
		} else if unclear != nil {
			err = unclear // a try that published nothing does not say that an earlier one did not
		}
		delay := delays.next() + max(asked, 0)
		late := unclear != nil && time.Since(start)+delay > repeatWithin
		final := method == http.MethodPost && a.options.NoUnclearRetries && errors.Is(err, ErrPublishUnclear)
		if try == tries || ctx.Err() != nil || told && asked > a.options.Timeout || late || final {
			return nil, err
		}
		timer := time.NewTimer(delay)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		case <-timer.C:
		}
	}
}

func (a *API) try(ctx context.Context, method, address string, body []byte, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, a.options.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	if a.options.Key != "" {
		request.Header.Set("Authorization", "Bearer "+a.options.Key)
	}
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	unclear := ErrPublishUnclear
	if method == http.MethodGet {
		unclear = ErrUnavailable // nothing is published
	}
	response, err := a.client.Do(request)
	if err != nil {
		return nil, transportError(err, unclear)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, transportError(err, unclear)
	}
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return answer, nil
	}
	return nil, problem(response, answer, unclear)
}

// transportError tells an error before anything was sent from one after which the message may have been published.
func transportError(err, unclear error) error {
	var operation *net.OpError
	if errors.As(err, &operation) && operation.Op == "dial" {
		return failure(ErrUnavailable, "unavailable", err, "the server cannot be reached: %v", err)
	}
	return failure(unclear, "unavailable", err, "the answer did not come: %v", err)
}

// problem reads the problem document of an answer.
func problem(response *http.Response, answer []byte, unclear error) error {
	var document struct{ Detail, Code string }
	if json.Unmarshal(answer, &document) != nil || document.Detail == "" {
		document.Detail = fmt.Sprintf("the server answered with %s", response.Status)
	}
	err := refusal(document.Code, response.StatusCode, document.Detail)
	seconds, wrong := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 31)
	if wrong == nil {
		err.RetryAfter = time.Duration(seconds) * time.Second
	}
	if err.Status == http.StatusServiceUnavailable {
		if err.Kind = ErrUnavailable; wrong != nil {
			err.Kind = unclear // the message may have reached the broker
		}
	}
	return err
}
