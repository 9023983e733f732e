package realizehit

import (
	"bytes"
	"crypto/md5" //nolint:gosec // a label, not a secret: the wire defines it
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/url"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of a pattern; sizes are in bytes of the encoded text.
const (
	MaxFilters = 16
	MaxKey     = 64
	MaxValue   = 256
	MaxChannel = 1024
)

// Pattern is a set of filters. A value is a string, a bool, an integer, a finite float or a [json.Number]. In a
// subscription the value "*" stands for any value, and the filter "*": "*" for any further filters.
type Pattern map[string]any

// ParsePattern reads a pattern from JSON. Numbers keep their spelling.
//
// It returns an error of kind [ErrBadPattern] if the text is not a JSON object or a filter is not valid.
func ParsePattern(text []byte) (Pattern, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var pattern Pattern
	if err := decoder.Decode(&pattern); err != nil {
		return nil, badPattern("a pattern is a JSON object: %v", err)
	}
	if _, err := pattern.Text(); err != nil {
		return nil, err
	}
	return pattern, nil
}

// Text returns the canonical text of the pattern, such as "channel:CNN|kind:news".
//
// It returns an error of kind [ErrBadPattern] that names the filter and the bound if the pattern is not valid.
func (p Pattern) Text() (string, error) {
	if len(p) == 0 {
		return "", badPattern("a pattern needs at least one filter")
	}
	if len(p) > MaxFilters {
		return "", badPattern("a pattern has at most %d filters, this one has %d", MaxFilters, len(p))
	}
	type filter struct{ key, value string }
	filters := make([]filter, 0, len(p))
	for key, value := range p {
		text, err := valueText(value)
		if err != nil {
			return "", badPattern("the value of %q %v", key, err)
		}
		if key == "*" {
			if value != "*" {
				return "", badPattern("the key * takes only the value *")
			}
			filters = append(filters, filter{"*", "*"})
			continue
		}
		if key == "" || text == "" {
			return "", badPattern("the key or the value of %q is empty", key)
		}
		if !utf8.ValidString(key) || !utf8.ValidString(text) {
			return "", badPattern("the key or the value of %q is not UTF-8", key)
		}
		encodedKey, encodedValue := encode(key), encode(text)
		if value == "*" {
			encodedValue = "*"
		}
		if len(encodedKey) > MaxKey {
			return "", badPattern("the key %q has %d encoded bytes, at most %d are allowed", key, len(encodedKey), MaxKey)
		}
		if len(encodedValue) > MaxValue {
			return "", badPattern("the value of %q has %d encoded bytes, at most %d are allowed", key, len(encodedValue), MaxValue)
		}
		filters = append(filters, filter{encodedKey, encodedValue})
	}
	sort.Slice(filters, func(i, j int) bool { return filters[i].key < filters[j].key })
	parts := make([]string, len(filters))
	for i, each := range filters {
		parts[i] = each.key + ":" + each.value
	}
	channel := strings.Join(parts, "|")
	if len(channel) > MaxChannel {
		return "", badPattern("the pattern has %d encoded bytes, at most %d are allowed", len(channel), MaxChannel)
	}
	return channel, nil
}

// ID returns the pattern's label on the wire, 8 hexadecimal digits. Two patterns may have the same one.
//
// It returns an error of kind [ErrBadPattern] if the pattern is not valid.
func (p Pattern) ID() (string, error) {
	text, err := p.Text()
	if err != nil {
		return "", err
	}
	return labelOf(text), nil
}

func labelOf(text string) string {
	sum := md5.Sum([]byte(text)) //nolint:gosec // as above
	return hex.EncodeToString(sum[:4])
}

func (p Pattern) isWildcard() bool {
	for _, value := range p {
		if value == "*" {
			return true
		}
	}
	return false
}

func badPattern(format string, args ...any) error {
	return failure(ErrBadPattern, "bad-pattern", nil, format, args...)
}

func valueText(value any) (string, error) {
	switch value := value.(type) {
	case string:
		return value, nil
	case bool:
		return strconv.FormatBool(value), nil
	case json.Number:
		return numberText(value.String())
	case float64:
		return floatText(value)
	case float32:
		return floatText(float64(value))
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		return fmt.Sprint(value), nil
	case nil:
		return "", fmt.Errorf("is null")
	}
	return "", fmt.Errorf("is a %T, not a string, a number or a boolean", value)
}

var (
	smallest = new(big.Int).Neg(new(big.Int).Lsh(big.NewInt(1), 63))
	largest  = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 64), big.NewInt(1))
)

func numberText(text string) (string, error) {
	if !strings.ContainsAny(text, ".eE") {
		number, ok := new(big.Int).SetString(text, 10)
		if ok && number.Cmp(smallest) >= 0 && number.Cmp(largest) <= 0 {
			return number.String(), nil
		}
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return "", fmt.Errorf("is a number that no double can hold")
	}
	return floatText(number)
}

// floatText writes a number as ECMAScript's Number::toString does.
func floatText(number float64) (string, error) {
	switch size := math.Abs(number); {
	case math.IsNaN(number) || math.IsInf(number, 0):
		return "", fmt.Errorf("is not a finite number")
	case number == 0:
		return "0", nil
	case size >= 1e-6 && size < 1e21:
		return strconv.FormatFloat(number, 'f', -1, 64), nil
	}
	digits, exponent, _ := strings.Cut(strconv.FormatFloat(number, 'e', -1, 64), "e")
	return digits + "e" + exponent[:1] + strings.TrimLeft(exponent[1:], "0"), nil
}

func encode(text string) string {
	const digits = "0123456789ABCDEF"
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || strings.IndexByte("-._~", c) >= 0 {
			out.WriteByte(c)
			continue
		}
		out.WriteByte('%')
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// decodeChannel turns a channel into filters.
func decodeChannel(channel string) (map[string]string, error) {
	filters := map[string]string{}
	for _, part := range strings.Split(channel, "|") {
		key, value, found := strings.Cut(part, ":")
		if !found || key == "" || value == "" {
			return nil, fmt.Errorf("%q is not a filter", part)
		}
		name, err := url.PathUnescape(key)
		if err != nil {
			return nil, err
		}
		text, err := url.PathUnescape(value)
		if err != nil {
			return nil, err
		}
		filters[name] = text
	}
	return filters, nil
}
