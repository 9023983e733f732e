package realizehit

import (
	"errors"
	"fmt"
	"time"
)

// What an [Error] means; compare with [errors.Is].
var (
	ErrBadPattern       = errors.New("the pattern is not valid")
	ErrForbidden        = errors.New("this is not allowed")
	ErrNotAuthenticated = errors.New("the key or token is missing or proves nothing")
	ErrRateLimited      = errors.New("too many requests")
	ErrTooLarge         = errors.New("the request is too large")
	// ErrUnavailable: the server or its broker cannot be reached now; the same request may work later.
	ErrUnavailable = errors.New("the server is not available")
	// ErrPublishUnclear: the answer was lost, so whether the message was published is not known.
	ErrPublishUnclear = errors.New("whether the message was published is not known")
	// ErrRejected: the server refused the request for another reason; [Error.Code] says which.
	ErrRejected = errors.New("the server refused the request")
	// ErrDisconnected: the server closed the connection in a way that forbids to come back.
	ErrDisconnected = errors.New("the connection is lost")
	// ErrTimeout: the server did not answer an action in time.
	ErrTimeout = errors.New("no answer in time")
	// ErrToken: the token function failed.
	ErrToken = errors.New("there is no token")
	// ErrClosed: the client or the subscription was closed.
	ErrClosed = errors.New("closed")
)

// Error is what the clients of this package return when a request fails.
type Error struct {
	// Kind is one of the Err values of this package.
	Kind error
	// Code is the server's stable code, such as "forbidden"; empty if it gave none.
	Code string
	// Status is the HTTP status, or the close code of a WebSocket; 0 if there was none.
	Status int
	// Text is for people.
	Text string
	// RetryAfter is how long the server asks to wait; negative if it does not say.
	RetryAfter time.Duration

	cause error
}

func (e *Error) Error() string {
	if e.Code == "" {
		return fmt.Sprintf("realizehit: %v: %s", e.Kind, e.Text)
	}
	return fmt.Sprintf("realizehit: %s (%s)", e.Text, e.Code)
}

// Is says whether target is the error's kind.
func (e *Error) Is(target error) bool { return target == e.Kind }

// Unwrap returns the error that caused this one, if any.
func (e *Error) Unwrap() error { return e.cause }

// RetryAfterOf returns how long a server asked to wait, and whether it did.
func RetryAfterOf(err error) (time.Duration, bool) {
	var known *Error
	if errors.As(err, &known) && known.RetryAfter >= 0 {
		return known.RetryAfter, true
	}
	return 0, false
}

var kinds = map[string]error{
	"bad-pattern":          ErrBadPattern,
	"wildcard-unsupported": ErrBadPattern,
	"forbidden":            ErrForbidden,
	"not-authenticated":    ErrNotAuthenticated,
	"rate-limited":         ErrRateLimited,
	"too-large":            ErrTooLarge,
	"unavailable":          ErrUnavailable,
	"too-many-connections": ErrUnavailable,
}

var statusKinds = map[int]error{
	401: ErrNotAuthenticated, 403: ErrForbidden, 413: ErrTooLarge, 429: ErrRateLimited, 503: ErrUnavailable,
}

func refusal(code string, status int, text string) *Error {
	kind := kinds[code]
	if kind == nil {
		kind = statusKinds[status]
	}
	if kind == nil {
		kind = ErrRejected
	}
	return &Error{Kind: kind, Code: code, Status: status, Text: text, RetryAfter: -1}
}

func failure(kind error, code string, cause error, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Text: fmt.Sprintf(format, args...), RetryAfter: -1, cause: cause}
}
