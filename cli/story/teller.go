package story

import (
	"fmt"
	"io"
)

// teller writes the story: titles, what is done, evidence, and what it proves.
type teller struct {
	out io.Writer
}

func (t *teller) line(format string, args ...any) { fmt.Fprintf(t.out, format+"\n", args...) }

// note is about the stage, not the story.
func (t *teller) note(text string) { t.line("· %s", text) }

func (t *teller) title(number int, text string) { t.line("\n%d. %s", number, text) }

// does says what is being done.
func (t *teller) does(format string, args ...any) { t.line("  "+format, args...) }

// evidence shows something as it was found.
func (t *teller) evidence(format string, args ...any) { t.line("    │ "+format, args...) }

// holds states what has been proven.
func (t *teller) holds(format string, args ...any) { t.line("  ✓ "+format, args...) }

// fails says what doesn't hold.
func (t *teller) fails(err error) { t.line("  ✗ %v", err) }
