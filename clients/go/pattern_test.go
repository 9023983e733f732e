package realizehit

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
)

type vector struct {
	In      json.RawMessage
	Channel string
	ID      string
	Why     string
}

func vectors(t *testing.T) map[string][]vector {
	t.Helper()
	text, err := os.ReadFile("../../tests/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Valid            []vector
		SubscriptionOnly []vector `json:"subscription_only"`
		Invalid          []vector
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return map[string][]vector{"valid": append(file.Valid, file.SubscriptionOnly...), "invalid": file.Invalid}
}

func TestValidVectors(t *testing.T) {
	for _, row := range vectors(t)["valid"] {
		pattern, err := ParsePattern(row.In)
		if err != nil {
			t.Errorf("%s: %v", row.In, err)
			continue
		}
		text, _ := pattern.Text()
		id, _ := pattern.ID()
		if text != row.Channel || id != row.ID {
			t.Errorf("%s: %s %s, not %s %s", row.In, text, id, row.Channel, row.ID)
		}
	}
}

func TestInvalidVectors(t *testing.T) {
	for _, row := range vectors(t)["invalid"] {
		if _, err := ParsePattern(row.In); !errors.Is(err, ErrBadPattern) {
			t.Errorf("%.60s: %v, though %s", row.In, err, row.Why)
		}
	}
}

func TestValuesOfGo(t *testing.T) {
	for want, value := range map[string]any{
		"a:3": 3.0, "a:1e%2B21": 1e21, "a:1e-7": 1e-7, "a:0.000001": 1e-6, "a:18446744073709551615": uint64(1<<64 - 1),
		"a:-9223372036854775808": int64(-1 << 63), "a:true": true, "a:5e-324": 5e-324, "a:0": json.Number("-0.0"),
		"a:123456789012345680000": json.Number("123456789012345678901"),
	} {
		if text, err := (Pattern{"a": value}).Text(); text != want || err != nil {
			t.Errorf("%v: %s %v, not %s", value, text, err, want)
		}
	}
	for _, value := range []any{nil, []string{"x"}, map[string]any{}, "\xff", json.Number("1e999"), struct{}{}} {
		if _, err := (Pattern{"a": value}).Text(); !errors.Is(err, ErrBadPattern) {
			t.Errorf("%v: %v", value, err)
		}
	}
}

func TestHeads(t *testing.T) {
	read, err := parseHead("bd3769cd@z=1&c=channel:S%C3%A3o|kind:news&o=17")
	if err != nil || read.id != "bd3769cd" || read.offset != "17" {
		t.Fatal(read, err)
	}
	if filters, _ := decodeChannel(read.channel); filters["channel"] != "São" || filters["kind"] != "news" {
		t.Fatal(filters)
	}
	for _, wrong := range []string{"a@", "a@c", "a@c=x", "a@c=%zz:1", "a@c=x:%zz", "a@c=:1"} {
		if _, err := parseHead(wrong); err == nil {
			t.Errorf("%q is accepted", wrong)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add("bd3769cd@z=1&c=channel:CNN|kind:news")
	f.Fuzz(func(t *testing.T, text string) {
		read, err := parseHead(text)
		if err == nil && read.channel != "" {
			if _, err := decodeChannel(read.channel); err != nil {
				t.Fatalf("%q was accepted: %v", text, err)
			}
		}
	})
}
