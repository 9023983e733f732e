# frozen_string_literal: true

# Clients of a realizehit server: {Realizehit::API} publishes over HTTP, {Realizehit::Client} subscribes over a
# WebSocket.
#
#   require "realizehit"
#
#   client = Realizehit::Client.new("ws://127.0.0.1:8080/ws")
#   news = client.subscribe({ kind: "news" })
#   Realizehit::API.new("http://127.0.0.1:8080/").publish({ kind: "news" }, { title: "hello" })
#   puts news.next.payload["title"]
module Realizehit
end

require_relative "realizehit/version"
require_relative "realizehit/errors"
require_relative "realizehit/pattern"
require_relative "realizehit/api"
require_relative "realizehit/client"
