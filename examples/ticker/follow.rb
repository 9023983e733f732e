# frozen_string_literal: true

# Follows the ticker from Ruby: prints each price as it comes.
#
#   ruby -Iclients/ruby/lib examples/ticker/follow.rb AAPL IBM
#
# Without symbols it follows all of them. TICKER_WS is the address of another server.

require "realizehit"

$stdout.sync = true
symbols = ARGV.empty? ? ["*"] : ARGV

client = Realizehit::Client.new(
  ENV.fetch("TICKER_WS", "ws://127.0.0.1:8080/ws"),
  on_disconnected: ->(lost) { warn lost.message }
)
symbols.each do |symbol|
  away = ->(gap) { warn "#{symbol}: prices of #{gap.seconds.round(1)} s may be missing" }
  client.subscribe({ kind: "stock", symbol: symbol }, on_gap: away) do |message|
    price = message.payload
    puts "#{message.pattern['symbol']} #{price['date']} #{price['price']}"
  end
end
warn "following #{symbols.join(', ')}"
begin
  client.wait
rescue Interrupt
  client.close
end
abort client.error.message if client.error
