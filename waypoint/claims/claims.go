// Package claims holds what a token says of who asks, for the policies that ask for it. Whether it is true is checked elsewhere.
package claims

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Claims are a token's. They don't change.
type Claims struct {
	Issuer, Subject string
	// Principal is "issuer/subject", or "" if one of them is missing.
	Principal string
	Audiences []string
	Presenter string // the claim azp
	// Expiry and NotBefore are zero if the token has none.
	Expiry, NotBefore time.Time
	all               map[string]any
	words             []string // the claims that are lists of words
}

// wordLists are claims that are lists of words everywhere.
var wordLists = []string{"scope", "permission"}

// Parse reads a token's payload (RFC 7519 section 4).
func Parse(payload []byte) (*Claims, error) {
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var all map[string]any
	if err := decoder.Decode(&all); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if all == nil || decoder.More() {
		return nil, errors.New("payload: want one JSON object")
	}
	c := &Claims{all: all, words: wordLists}
	var problems [5]error
	c.Issuer, problems[0] = text(all, "iss")
	c.Subject, problems[1] = text(all, "sub")
	c.Audiences, problems[2] = texts(all, "aud")
	c.Expiry, problems[3] = date(all, "exp")
	c.NotBefore, problems[4] = date(all, "nbf")
	if err := errors.Join(problems[:]...); err != nil {
		return nil, err
	}
	c.Presenter, _ = all["azp"].(string)
	if c.Issuer != "" && c.Subject != "" {
		c.Principal = c.Issuer + "/" + c.Subject
	}
	return c, nil
}

// WithWordLists returns the same claims, of which those named are lists of words too, beside scope and permission.
func (c *Claims) WithWordLists(names []string) *Claims {
	out := *c
	out.words = slices.Concat(wordLists, names)
	return &out
}

func text(all map[string]any, name string) (string, error) {
	value, ok := all[name].(string)
	if !ok && all[name] != nil {
		return "", fmt.Errorf("claim %s is no text", name)
	}
	return value, nil
}

func texts(all map[string]any, name string) ([]string, error) {
	list, ok := all[name].([]any)
	if !ok {
		value, err := text(all, name)
		if err != nil || value == "" {
			return nil, err
		}
		return []string{value}, nil
	}
	var out []string
	for _, item := range list {
		value, ok := item.(string)
		if !ok {
			return nil, fmt.Errorf("claim %s has an item that is no text", name)
		}
		out = append(out, value)
	}
	return out, nil
}

// date reads seconds since 1970, which may have a fraction.
func date(all map[string]any, name string) (time.Time, error) {
	if all[name] == nil {
		return time.Time{}, nil
	}
	number, _ := all[name].(json.Number)
	seconds, err := number.Float64()
	if err != nil || seconds < 0 || seconds > math.MaxInt32*1000 {
		return time.Time{}, fmt.Errorf("claim %s is no date", name)
	}
	return time.Unix(int64(seconds), 0), nil
}

// Has tells whether the claim at the end of a path fits, or of a list one of its elements. Numbers, truths and objects never do.
func (c *Claims) Has(path []string, fits func(value string) bool) bool {
	switch value := c.at(path).(type) {
	case string:
		if len(path) != 1 || !slices.Contains(c.words, path[0]) {
			return fits(value)
		}
		for word := range strings.FieldsSeq(value) {
			if fits(word) {
				return true
			}
		}
	case []any:
		for _, item := range value {
			if text, ok := item.(string); ok && fits(text) {
				return true
			}
		}
	}
	return false
}

// Text returns the claim at the end of a path as a header's value; ok is false if there is none, or if it is a list or an object.
func (c *Claims) Text(path []string) (value string, ok bool) {
	switch value := c.at(path).(type) {
	case string:
		return value, true
	case json.Number:
		return value.String(), true
	case bool:
		return fmt.Sprint(value), true
	}
	return "", false
}

func (c *Claims) at(path []string) any {
	var value any = c.all
	for _, name := range path {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	return value
}
