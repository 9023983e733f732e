# frozen_string_literal: true

module Realizehit
  # Messages may be missing.
  #
  # seconds:: how long the connection, or the server's broker, was away; 0 if messages were dropped
  # dropped:: how many messages the full queue dropped
  Gap = Struct.new(:seconds, :dropped, keyword_init: true)
end
