package h1

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/waypoint/exchange"
)

// All fields are compared with all options of the connection. A head of many of both is refused before it costs seconds, in which the loop serves nobody.
func TestAHeadOfManyOptionsCostsLittle(t *testing.T) {
	many := strings.Repeat("x,", 30_000)
	var fields strings.Builder
	for i := range maxFields - 10 {
		fmt.Fprintf(&fields, "a%d: b\r\n", i)
	}
	for name, head := range map[string]string{
		"one field":      "connection: " + many + "\r\n",
		"several fields": strings.Repeat("connection: "+many[:6000]+"\r\n", 9),
		"empty":          "connection: " + strings.ReplaceAll(many, "x", "") + "\r\n",
	} {
		var req exchange.Request
		start := time.Now()
		err := parseRequest([]byte("GET / HTTP/1.1\r\nhost: a\r\n"+fields.String()+head+"\r\n"), &req, new(framing))
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("%s: took %v", name, took)
		}
		refused := new(Malformed)
		if want := name != "empty"; errors.As(err, &refused) != want || want && refused.Status != 431 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// As many options as there may be take their fields off.
func TestOptionsTakeTheirFieldsOff(t *testing.T) {
	var options []string
	for i := range 100 {
		options = append(options, fmt.Sprintf("X-%d", i))
	}
	head := "GET / HTTP/1.1\r\nhost: a\r\nx-0: a\r\nx-99: b\r\nX-100: c\r\nconnection: close, TE, " + strings.Join(options, ", ") + "\r\n\r\n"
	var req exchange.Request
	if err := parseRequest([]byte(head), &req, new(framing)); err != nil {
		t.Fatal(err)
	}
	if len(req.Fields) != 1 || req.Fields[0] != (exchange.Field{Name: "x-100", Value: "c"}) {
		t.Errorf("%v", req.Fields)
	}
}
