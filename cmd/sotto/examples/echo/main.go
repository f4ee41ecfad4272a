// Echo is a bot in a few lines: it answers whoever writes with what they wrote.
//
//	sotto token create --name echo --read --post > echo.token
//	SOTTO_HOME=~/.local/share/sotto SOTTO_TOKEN_FILE=echo.token go run ./cmd/sotto/examples/echo
//
// It survives that it, the node or both are killed at any time: the file echo.position
// says which event was the last, and the key of an answer, made of the message that it
// answers, sees to it that none is sent twice.
package main

import (
	"bytes"
	"context"
	"log"
	"os"

	"sotto/node"
	"sotto/node/api"
)

func main() {
	token, err := os.ReadFile(os.Getenv("SOTTO_TOKEN_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	ctx, bot := context.Background(), api.NewClient(os.Getenv("SOTTO_HOME"))
	bot.UseToken(string(bytes.TrimSpace(token)))
	log.Fatal(bot.Follow(ctx, "echo.position", func(e node.Event) error {
		m := e.Message
		if m == nil || m.Mine || m.Kind != "text" {
			return nil
		}
		_, err := bot.SendMessage(ctx, m.Conversation, node.NewMessage{Text: m.Text, Key: "echo/" + m.ID})
		if err != nil && !api.Away(err) {
			log.Print(err) // as when the contact is blocked: others are answered
			return nil
		}
		return err
	}))
}
